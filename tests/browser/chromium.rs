//! The browser of the test: `RELINK_TEST_CHROMIUM`, else `chromium` or `google-chrome` on `PATH`, else Debian's package,
//! unpacked once into the directory in which the tests keep other programs. Debian keeps only the newest version of it, so
//! no version is pinned.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::foreign::{installed, run};
use crate::support::variable;

/// A chromium, and what it needs from its directory.
pub(crate) struct Chromium {
    pub(crate) program: PathBuf,
    /// The environment of its process.
    pub(crate) environment: Vec<(&'static str, OsString)>,
}

impl Chromium {
    pub(crate) async fn find() -> Self {
        if let Some(program) = variable("RELINK_TEST_CHROMIUM").or_else(on_path) {
            return Self { program, environment: Vec::new() };
        }
        let folder = installed("chromium", async |folder| {
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser/chromium.sh");
            let fetched = run(Command::new("sh").arg(script).current_dir(folder)).await;
            fetched.map(drop).map_err(|error| format!("{error}\nSet RELINK_TEST_CHROMIUM to a chromium."))
        });
        let folder = folder.await;
        let root = folder.join("root");
        let mut libraries = Vec::new();
        for place in ["lib", "usr/lib"] {
            directories_with_libraries(&root.join(place), &mut libraries);
        }
        let libraries = std::env::join_paths(libraries).expect("paths without a colon");
        let fonts = folder.join("fonts.conf");
        let configuration = format!(
            "<?xml version=\"1.0\"?><!DOCTYPE fontconfig SYSTEM \"fonts.dtd\"><fontconfig><dir>{}</dir>\
             <dir>/usr/share/fonts</dir><cachedir>{}</cachedir>\
             <match><edit name=\"family\" mode=\"append\"><string>DejaVu Sans</string></edit></match></fontconfig>",
            root.join("usr/share/fonts").display(),
            folder.join("fonts").display()
        );
        std::fs::write(&fonts, configuration).expect("cargo's temporary folder can be written");
        let environment = vec![("LD_LIBRARY_PATH", libraries), ("FONTCONFIG_FILE", fonts.into_os_string())];
        Self { program: root.join("usr/lib/chromium/chromium"), environment }
    }
}

fn on_path() -> Option<PathBuf> {
    let path = variable("PATH")?;
    let directories: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let programs = ["chromium", "google-chrome"].into_iter();
    programs.flat_map(|name| directories.iter().map(move |directory| directory.join(name))).find(|file| file.is_file())
}

/// The directories below `directory` that have shared libraries.
fn directories_with_libraries(directory: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    let entries: Vec<PathBuf> = entries.map(|entry| entry.expect("a readable directory").path()).collect();
    if entries.iter().any(|entry| entry.is_file() && entry.to_string_lossy().contains(".so")) {
        found.push(directory.to_owned());
    }
    for entry in entries.iter().filter(|entry| entry.is_dir() && !entry.is_symlink()) {
        directories_with_libraries(entry, found);
    }
}
