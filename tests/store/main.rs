//! The tests of `src/store/`: the contract of every store, and sled with damaged, large and hanging disks.

#[path = "../support/mod.rs"]
mod support;

mod contract;
mod damage;
mod hangs;
mod index;
mod recovery;
mod size;
