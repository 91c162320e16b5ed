//! The binary: nothing but the hand-over to [`relink::cli`].

fn main() {}
