//! The files of one version: their names, and how they are read and written.
//!
//! ```text
//! records.jsonl        link records, one per line: bodies of `$KV.links.<link>`, and values of the store
//! inputs.jsonl         messages of the stream BELVO, as stored, with the meaning that this version read in each
//! links.jsonl          messages of the stream KV_links (before 0.3: LINKS): every kind of message, in the order of the stream
//! dead_letters.jsonl   messages of the stream RELINK_DEAD
//! store/               a sled directory, closed cleanly: the store of that run, and every third link of records.jsonl
//! ```
//!
//! A line has a JSON payload byte for byte, and any other payload as base64.

use std::fs;
use std::path::{Path, PathBuf};

use async_nats::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use relink::contract::At;
use relink::nats::subject::Subjects;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

pub(crate) const RECORDS: &str = "records.jsonl";
pub(crate) const INPUTS: &str = "inputs.jsonl";
pub(crate) const LINKS: &str = "links.jsonl";
pub(crate) const DEAD_LETTERS: &str = "dead_letters.jsonl";
pub(crate) const STORE: &str = "store";

/// The directory of one version.
pub(crate) struct Corpus {
    pub(crate) directory: PathBuf,
}

/// A message of a stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) sequence: u64,
    /// For an input: the time at which the run handled it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stored_at: Option<At>,
    pub(crate) subject: String,
    pub(crate) headers: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    payload: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    /// For an input: its meaning in this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) means: Option<String>,
}

impl Line {
    pub(crate) fn of((sequence, subject, headers, payload): (u64, String, HeaderMap, Bytes)) -> Self {
        let pairs = headers.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
        let mut headers: Vec<_> = pairs.map(|(name, value)| (name.to_string(), value.as_str().to_owned())).collect();
        // A header map keeps only the order of the values of one name.
        headers.sort_by(|(one, _), (other, _)| one.cmp(other));
        let text = std::str::from_utf8(&payload).ok().filter(|text| !text.contains('\n') && text.trim() == *text);
        let json = text.and_then(|text| serde_json::from_str::<Box<RawValue>>(text).ok());
        let payload_base64 = json.is_none().then(|| BASE64.encode(&payload));
        Self { sequence, stored_at: None, subject, headers, payload: json, payload_base64, means: None }
    }

    pub(crate) fn payload(&self) -> Bytes {
        match (&self.payload, &self.payload_base64) {
            (Some(json), _) => Bytes::from(json.get().to_owned()),
            (None, Some(text)) => BASE64.decode(text).unwrap().into(),
            (None, None) => panic!("{}: a line without a payload", self.subject),
        }
    }

    /// The publisher's headers, without those that the server wrote or acted on.
    pub(crate) fn own_headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in self.headers.iter().filter(|(name, _)| !name.starts_with("Nats-")) {
            headers.append(name.as_str(), value.as_str());
        }
        headers
    }
}

impl Corpus {
    pub(crate) fn records(&self) -> Vec<String> {
        self.read(RECORDS).lines().map(str::to_owned).collect()
    }

    /// The records that are in the store too. All records would not fit into the smallest file of sled.
    pub(crate) fn stored_records(&self) -> Vec<String> {
        self.records().into_iter().step_by(3).collect()
    }

    pub(crate) fn lines(&self, file: &str) -> Vec<Line> {
        let read = |line| {
            let mut line: Line = serde_json::from_str(line).unwrap();
            // Before 0.3 a state had this subject. An upgraded relink publishes the same body again, on the subject of the bucket.
            if let Some(link) = line.subject.strip_prefix("link.state.") {
                line.subject = Subjects::default().state(link);
            }
            line
        };
        self.read(file).lines().map(read).collect()
    }

    pub(crate) fn write_lines(&self, file: &str, lines: &[Line]) {
        let lines: Vec<String> = lines.iter().map(|line| serde_json::to_string(line).unwrap()).collect();
        self.write(file, &lines);
    }

    pub(crate) fn write(&self, file: &str, lines: &[String]) {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        fs::write(self.directory.join(file), text).unwrap();
    }

    /// Copies the whole version, because opening a store writes to it.
    pub(crate) fn copy_to(&self, directory: &Path) -> Self {
        copy(&self.directory, directory);
        Self { directory: directory.to_owned() }
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.directory.join(STORE)
    }

    /// A hash over the names and contents of all files.
    pub(crate) fn digest(&self) -> String {
        let mut files = Vec::new();
        collect(&self.directory, &mut files);
        files.sort();
        let mut hash = Sha256::new();
        for path in files {
            let name = path.strip_prefix(&self.directory).unwrap().to_string_lossy().replace('\\', "/");
            let contents = fs::read(&path).unwrap();
            hash.update(format!("{name}\n{}\n", contents.len()));
            hash.update(contents);
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn read(&self, file: &str) -> String {
        let path = self.directory.join(file);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{} cannot be read: {error}", path.display()))
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for path in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            collect(&path, files);
        } else {
            files.push(path);
        }
    }
}
