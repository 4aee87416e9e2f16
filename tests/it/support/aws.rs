//! A simulated AWS of a test's own, on a clock that stands still until it is set.

use std::ops::Deref;

use amazon_billing_source::{
    clock::Clock,
    simulator::{Fault, Options, Scenario, Simulator},
};
use jiff::Timestamp;

use super::runtime;

/// A simulator and its clock.
pub(crate) struct Aws {
    simulator: Simulator,
    pub(crate) clock: Clock,
}

impl Aws {
    /// A company whose books are as of the machine's present and stay so: for the binary, whose
    /// clock is the machine's.
    pub(crate) fn now() -> Self {
        Self::with(Options::default(), Clock::manual(Clock::system().now()))
    }

    /// The same for another kind of account.
    pub(crate) fn scenario(name: &str) -> Self {
        let scenario = Scenario::from_name(name).unwrap();
        Self::with(Options { scenario, ..Options::default() }, Clock::manual(Clock::system().now()))
    }

    /// The same with small pages.
    pub(crate) fn pages(page_size: usize) -> Self {
        Self::with(Options { page_size, ..Options::default() }, Clock::manual(Clock::system().now()))
    }

    /// A company at an instant.
    pub(crate) fn at(start: &str) -> Self {
        Self::with(Options::default(), Clock::manual(instant(start)))
    }

    /// Anything else.
    pub(crate) fn with(options: Options, clock: Clock) -> Self {
        let simulator = runtime().block_on(Simulator::start(options, clock.clone())).unwrap();
        Self { simulator, clock }
    }

    /// Chargeable requests so far.
    pub(crate) fn charged(&self) -> u64 {
        self.simulator.bill().chargeable
    }

    /// The next request meets a fault.
    pub(crate) fn once(&self, fault: Fault) {
        self.simulator.faults().once(fault);
    }
}

impl Deref for Aws {
    type Target = Simulator;

    fn deref(&self) -> &Simulator {
        &self.simulator
    }
}

/// An instant from its text.
pub(crate) fn instant(text: &str) -> Timestamp {
    text.parse().unwrap()
}
