//! The node's own messages on the output stream: fences, and the closing message of each commit.

use super::{Node, NodeOptions};
use crate::contract::{Address, At, Commit, Fence, LinksDigest};
use crate::engine::Message;
use crate::link::Timestamp;

/// The fence message that makes `owner` the owner of a partition.
pub fn fence_message(partition: u16, owner: &str, now: Timestamp) -> Message {
    let fence = Fence { owner: owner.to_owned(), taken_at: At(now) };
    let body = serde_json::to_vec(&fence).expect("a fence is a plain struct").into();
    let id = format!("fence.{partition}.{owner}.{}", now.as_millis());
    Message { address: Address::Fence(partition), id, at: now, body, trace: None }
}

impl NodeOptions {
    /// Whether a fence of `owner` is of this node, under its present name or an earlier one.
    pub(super) fn is_ours(&self, owner: &str) -> bool {
        let count = |rest: &str| rest.strip_prefix(' ').is_some_and(|count| count.parse::<u64>().is_ok());
        owner.strip_prefix(&self.owner).is_some_and(|rest| rest.is_empty() || count(rest))
    }
}

impl<S> Node<S> {
    /// The owner in this node's messages. A node that has emptied its store gives out sequences again that the stream has lost, so it
    /// goes on under another name: an older copy of its store does not take such a message for its witness.
    pub(super) fn owner(&self) -> String {
        match self.store_restarts_count {
            0 => self.options.owner.clone(),
            count => format!("{} {count}", self.options.owner),
        }
    }

    /// A closing message, with all links after its commit if the node knows them. Its id is unique, because `writer` is unique and the node
    /// uses no number twice.
    pub(super) fn closing_message(&mut self, now: Timestamp, links: Option<LinksDigest>) -> Message {
        self.last_id += 1;
        let writer = &self.options.writer;
        let commit = Commit { owner: self.owner(), sent_at: At(now), links };
        let body = serde_json::to_vec(&commit).expect("a commit is a plain struct").into();
        let id = format!("commit.{writer}.{}", self.last_id);
        Message { address: Address::Commit(writer.clone()), id, at: now, body, trace: None }
    }
}
