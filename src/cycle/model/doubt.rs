//! Writes of a poll that was paid for, of which it is not known what came of them.

use super::*;

impl World {
    fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        self.log.log.lock().unwrap().faults = faults.into_iter().collect();
    }
}

/// Taken for another process's, it would begin anew and be paid again.
#[tokio::test]
async fn a_reservation_in_doubt_is_looked_up() {
    for fault in [Fault::LostAcknowledgement, Fault::LostBatch] {
        let world = World::new(false);
        let (context, mut ledger) = (world.context("a"), Ledger::new());
        let mut poll = world.paid(&context, &mut ledger).await;
        world.fail([fault]);
        assert!(poll.reserve_another().await.unwrap().is_continue(), "{fault:?}");
        let reserved = world.log.log.lock().unwrap().connection.claim.as_ref().map(|claim| claim.reserved);
        assert_eq!(reserved, Some(2), "{fault:?}");
    }
}

/// The same of the last write of a poll.
#[tokio::test]
async fn an_end_in_doubt_is_looked_up() {
    let world = World::new(false);
    let (context, mut ledger) = (world.context("a"), Ledger::new());
    let mut poll = world.paid(&context, &mut ledger).await;
    assert!(poll.take(&world.page(vec![record(1, 0, 100, true)])).await.unwrap().is_continue());
    world.fail([Fault::LostAcknowledgement]);
    let outcome = poll.complete(world.clock.now()).await.unwrap();
    assert!(matches!(outcome, Outcome::Complete), "{outcome:?}");
}

/// An output that is slow, and stores a part each time, is not given up.
#[tokio::test]
async fn a_page_that_is_stored_part_by_part_is_gone_on_with() {
    let world = World::new(false);
    let (context, mut ledger) = (world.context("a"), Ledger::new());
    let mut poll = world.paid(&context, &mut ledger).await;
    let services: Vec<_> = (0..70_000).map(|number| format!("Service {number}")).collect();
    let records = services.iter().map(|service| {
        let mut record = record(1, 0, 100, true);
        record.service = service.as_str().into();
        record
    });
    world.fail([Fault::LostAcknowledgement; 6]);
    assert!(poll.take(&world.page(records.collect())).await.unwrap().is_continue());
    assert_eq!(world.log.log.lock().unwrap().events.len(), 70_000);
}
