//! Scenarios: what kind of account is simulated, by name.
//!
//! A scenario is no more than faults that are there from the start.

use super::fault::{Fault, Injection};

/// A named scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// As in `--scenario`.
    pub name: &'static str,
    /// One line for people.
    pub about: &'static str,
}

/// Every scenario, the default first.
pub const SCENARIOS: [Scenario; 11] = [
    Scenario { name: "company", about: "a middle-sized company, about 1,500 US dollars a day; no faults" },
    Scenario { name: "hourly-disabled", about: "hourly data was not opted into: AccessDenied for HOURLY" },
    Scenario { name: "new-account", about: "Cost Explorer was just enabled: DataUnavailable" },
    Scenario { name: "not-enabled", about: "Cost Explorer is not enabled: AccessDenied" },
    Scenario { name: "denied", about: "the permission ce:GetCostAndUsage is missing: AccessDenied" },
    Scenario { name: "throttled", about: "every request is refused: LimitExceeded" },
    Scenario { name: "unavailable", about: "HTTP 503 with a page of HTML for every request" },
    Scenario { name: "proxy", about: "a proxy answers every request with HTTP 200 and a page of HTML" },
    Scenario { name: "expired", about: "the session's credentials are expired" },
    Scenario { name: "wrong-clock", about: "the client's clock is wrong: InvalidSignature" },
    Scenario { name: "no-rows", about: "every answer comes without a row" },
];

impl Default for Scenario {
    fn default() -> Self {
        SCENARIOS[0]
    }
}

impl Scenario {
    /// The scenario of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        SCENARIOS.into_iter().find(|scenario| scenario.name == name)
    }

    /// The faults it begins with.
    pub(super) fn faults(self) -> Option<Injection> {
        let denied = |message: &str| Fault::AccessDenied { message: Some(message.to_owned()) };
        let fault = match self.name {
            "hourly-disabled" => denied("Hourly granularity is not enabled for this account"),
            "new-account" => Fault::DataUnavailable,
            "not-enabled" => denied("User not enabled for cost explorer access"),
            "denied" => Fault::AccessDenied { message: None },
            "throttled" => Fault::Throttled,
            "unavailable" => Fault::Unavailable,
            "proxy" => Fault::Html,
            "expired" => Fault::ExpiredToken,
            "wrong-clock" => Fault::InvalidSignature,
            "no-rows" => Fault::NoRows,
            _ => return None,
        };
        let granularity = (self.name == "hourly-disabled").then(|| "HOURLY".to_owned());
        Some(Injection { times: 0, granularity, ..fault.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_but_the_default_has_a_fault() {
        assert_eq!(Scenario::default().name, "company");
        for scenario in SCENARIOS {
            assert_eq!(scenario.faults().is_none(), scenario == Scenario::default(), "{}", scenario.name);
            assert_eq!(Scenario::from_name(scenario.name), Some(scenario));
        }
        assert_eq!(Scenario::from_name("weekly"), None);
    }
}
