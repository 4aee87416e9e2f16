//! What AWS would charge for the answers: one US cent for every answered page.
//!
//! Refusals and STS are free. A page that got lost on its way was answered, and is charged.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, PoisonError},
};

/// Cents for one answered request.
const PRICE_CENTS: u64 = 1;

/// Requests counted, by what AWS charges for them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bill {
    /// Requests of Cost Explorer that were answered with a page, whole or not; each is charged.
    pub chargeable: u64,
    /// Requests that were refused or met a fault before they were answered; free.
    pub refused: u64,
    /// Requests to STS; free.
    pub sts: u64,
    /// Chargeable requests per paying account.
    pub accounts: BTreeMap<String, u64>,
    /// Refused requests per error code (or HTTP status where there is none).
    pub refusals: BTreeMap<String, u64>,
}

impl Bill {
    /// All requests to Cost Explorer.
    pub const fn requests(&self) -> u64 {
        self.chargeable + self.refused
    }

    /// The price in whole US cents.
    pub const fn cents(&self) -> u64 {
        self.chargeable * PRICE_CENTS
    }

    /// The price as text, `$0.07`.
    pub fn cost(&self) -> String {
        format!("${}.{:02}", self.cents() / 100, self.cents() % 100)
    }

    /// The bill as `GET /_simulator/bill` gives it.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "requests": self.requests(),
            "chargeable": self.chargeable,
            "refused": self.refused,
            "sts": self.sts,
            "cost": self.cost(),
            "accounts": self.accounts,
            "refusals": self.refusals,
        })
    }
}

impl fmt::Display for Bill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} requests, {} refused, {}", self.requests(), self.refused, self.cost())
    }
}

/// The running bill.
#[derive(Debug, Default)]
pub(super) struct Counter(Mutex<Bill>);

impl Counter {
    pub(super) fn bill(&self) -> Bill {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn charge(&self, account: &str) {
        let mut bill = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        bill.chargeable += 1;
        *bill.accounts.entry(account.to_owned()).or_default() += 1;
    }

    pub(super) fn refuse(&self, code: &str) {
        let mut bill = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        bill.refused += 1;
        *bill.refusals.entry(code.to_owned()).or_default() += 1;
    }

    pub(super) fn sts(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).sts += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answered_pages_cost_a_cent_and_refusals_nothing() {
        let counter = Counter::default();
        for _ in 0..107 {
            counter.charge("111122223333");
        }
        counter.refuse("LimitExceededException");
        counter.sts();
        let bill = counter.bill();
        assert_eq!(bill.cost(), "$1.07");
        assert_eq!(bill.requests(), 108);
        assert_eq!(bill.to_string(), "108 requests, 1 refused, $1.07");
        assert_eq!(bill.to_json()["refusals"]["LimitExceededException"], 1);
        assert_eq!(bill.to_json()["accounts"]["111122223333"], 107);
    }
}
