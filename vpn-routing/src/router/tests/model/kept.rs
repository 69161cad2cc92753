//! Orders of transitions that failed once.

use super::run_all;
use super::transition::*;

#[test]
fn nothing_happens() {
    run_all(&[]);
}
