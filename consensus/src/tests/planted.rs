//! A planted bug that no cluster of a simulation can load enough to show.

use crate::planted::{Bug, plant};
use crate::proposal::ProposalBudget;

fn is_bounded() -> bool {
    let budget = ProposalBudget::new(2, 100);
    let shares = [budget.take(10), budget.take(10), budget.take(10)];
    shares.iter().flatten().count() == 2
}

#[test]
fn a_budget_that_takes_everything_is_found() {
    assert!(is_bounded());
    plant(Some(Bug::UnboundedProposals));
    assert!(!is_bounded());
    plant(None);
}
