//! Whole stories, with crashes between any two steps: nothing is lost, nothing is said twice, and a replaced owner gets nothing in.
//!
//! A failing case is shrunk and printed with all its turns, and its seed is kept in `crashes.regressions` beside this file, to be
//! tried first from then on: commit it. `PROPTEST_RNG_SEED=7` makes a run repeatable, `PROPTEST_CASES=100000` makes it long.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

use crate::world::{World, turn, turn_of_shares};

/// `PROPTEST_CASES` can only ask for more.
const CASES_MIN: u32 = 512;
const TURNS_MAX: usize = 150;

proptest! {
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases.max(CASES_MIN),
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn nothing_is_lost_and_nothing_is_said_twice(can_verify in any::<bool>(), turns in vec(turn(), 1..TURNS_MAX)) {
        let mut world = World::new(can_verify, true);
        for turn in turns {
            world.take(turn);
        }
        world.check();
    }

    /// Incidents are off: which node of several tells of one is not settled.
    #[test]
    fn lanes_come_and_go_one_by_one(can_verify in any::<bool>(), turns in vec(turn_of_shares(), 1..TURNS_MAX)) {
        let mut world = World::new(can_verify, false);
        for turn in turns {
            world.take(turn);
        }
        world.check();
    }
}
