//! A key that AWS lists twice in one answer.

use super::*;

/// A key listed twice: with the same figures one event, with different ones a failed poll, and in
/// either case nothing that the next poll would publish again.
#[test]
fn a_key_listed_twice_is_published_once_or_not_at_all() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (tax, same, other) = (record(1, 3, 100, true), record(1, 3, 100, true), record(1, 3, 200, true));
    let anchor = record(1, 0, 100, true);
    for (pages, complete, events) in [
        (vec![vec![anchor.clone(), tax.clone(), same.clone()]], true, 2),
        (vec![vec![anchor.clone(), tax.clone()], vec![same]], true, 2),
        (vec![vec![anchor.clone(), tax.clone(), other.clone()]], false, 0),
        (vec![vec![anchor, tax], vec![other]], false, 2),
    ] {
        let mut world = World::new(false);
        let outcomes = runtime.block_on(async {
            let mut outcomes = Vec::new();
            for _ in 0..3 {
                world.tick();
                let mut ledgers = std::mem::take(&mut world.ledgers);
                outcomes.push(world.answer(&pages, &mut ledgers[0]).await);
                world.ledgers = ledgers;
            }
            outcomes
        });
        assert_eq!(outcomes, [complete; 3]);
        assert_eq!(world.log.log.lock().unwrap().events.len(), events);
    }
}

impl World {
    /// One poll with these pages; whether it was complete.
    async fn answer(&self, pages: &[Vec<CostRecord>], ledger: &mut Ledger) -> bool {
        let context = self.context("a");
        let now = self.clock.now();
        let mut poll = self.paid(&context, ledger).await;
        for records in pages {
            if let ControlFlow::Break(outcome) = poll.take(&self.page(records.clone())).await.unwrap() {
                assert!(
                    matches!(&outcome, Outcome::Failed(error) if error.kind == FetchErrorKind::Malformed)
                );
                poll.fail(&outcome, now).await.unwrap();
                return false;
            }
        }
        matches!(poll.complete(now).await.unwrap(), Outcome::Complete)
    }
}
