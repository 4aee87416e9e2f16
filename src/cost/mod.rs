//! What AWS says something cost: periods, metrics, amounts, cost records and their keys.
//!
//! Nothing here does IO or reads a clock, and no amount ever passes through a float.

mod amount;
mod key;
mod period;
mod utc;

pub use amount::{Amount, AmountError, AmountRef};
pub use key::{CostKey, Scope, Slugs, query_digest, slug};
pub use period::{Granularity, Period, PeriodError};
pub(crate) use utc::parse_instant;
pub use utc::{midnight, utc_date};

use std::fmt;

use compact_str::CompactString;
use smallvec::SmallVec;

/// A cost metric of Cost Explorer: seven views of the same money, never to be added up.
///
/// Source: `GetCostAndUsage`, request member `Metrics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum CostMetric {
    /// Upfront fees spread over the period they pay for.
    AmortizedCost,
    /// The average rate over the accounts of an organisation.
    BlendedCost,
    /// `AmortizedCost` after discounts.
    NetAmortizedCost,
    /// `UnblendedCost` after discounts.
    NetUnblendedCost,
    /// Usage in normalised instance units; not money.
    NormalizedUsageAmount,
    /// The charge as it stands on the bill of the account that caused it.
    UnblendedCost,
    /// Usage in its own unit, `N/A` where units mix; not money.
    UsageQuantity,
}

impl CostMetric {
    /// Every metric, in the order of their names, which is also the order of `Ord`.
    pub const ALL: [Self; 7] = [
        Self::AmortizedCost,
        Self::BlendedCost,
        Self::NetAmortizedCost,
        Self::NetUnblendedCost,
        Self::NormalizedUsageAmount,
        Self::UnblendedCost,
        Self::UsageQuantity,
    ];

    /// AWS's name, as in requests and answers: `UnblendedCost`.
    pub const fn aws_name(self) -> &'static str {
        match self {
            Self::AmortizedCost => "AmortizedCost",
            Self::BlendedCost => "BlendedCost",
            Self::NetAmortizedCost => "NetAmortizedCost",
            Self::NetUnblendedCost => "NetUnblendedCost",
            Self::NormalizedUsageAmount => "NormalizedUsageAmount",
            Self::UnblendedCost => "UnblendedCost",
            Self::UsageQuantity => "UsageQuantity",
        }
    }

    /// The member of an event's data: AWS's name in lower camel case, `unblendedCost`.
    pub const fn member_name(self) -> &'static str {
        match self {
            Self::AmortizedCost => "amortizedCost",
            Self::BlendedCost => "blendedCost",
            Self::NetAmortizedCost => "netAmortizedCost",
            Self::NetUnblendedCost => "netUnblendedCost",
            Self::NormalizedUsageAmount => "normalizedUsageAmount",
            Self::UnblendedCost => "unblendedCost",
            Self::UsageQuantity => "usageQuantity",
        }
    }

    /// The metric of a member of an event's data, `None` for any other.
    pub fn from_member_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|metric| metric.member_name() == name)
    }

    /// The metric of AWS's name, `None` for any other text.
    pub fn from_aws_name(name: &str) -> Option<Self> {
        // Twice for each row: a match compares whole words, a search calls for each name.
        Some(match name {
            "AmortizedCost" => Self::AmortizedCost,
            "BlendedCost" => Self::BlendedCost,
            "NetAmortizedCost" => Self::NetAmortizedCost,
            "NetUnblendedCost" => Self::NetUnblendedCost,
            "NormalizedUsageAmount" => Self::NormalizedUsageAmount,
            "UnblendedCost" => Self::UnblendedCost,
            "UsageQuantity" => Self::UsageQuantity,
            _ => return None,
        })
    }
}

impl fmt::Display for CostMetric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.aws_name())
    }
}

/// The second dimension costs are grouped by, beside `SERVICE`.
///
/// Its text is the configuration's: `LINKED_ACCOUNT`, `TAG:team`, `COST_CATEGORY:unit`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GroupBy {
    /// A dimension of Cost Explorer, such as `LINKED_ACCOUNT` or `REGION`.
    Dimension(String),
    /// A cost allocation tag, by its key.
    Tag(String),
    /// A cost category, by its name.
    CostCategory(String),
}

impl fmt::Display for GroupBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dimension(name) => f.write_str(name),
            Self::Tag(key) => write!(f, "TAG:{key}"),
            Self::CostCategory(name) => write!(f, "COST_CATEGORY:{name}"),
        }
    }
}

/// The figures of one cost record, ordered by metric, each metric at most once.
pub type Amounts = SmallVec<[(CostMetric, Amount); 2]>;

/// The same, where they were read.
pub type AmountRefs<'a> = SmallVec<[(CostMetric, AmountRef<'a>); 2]>;

/// One Group of one `ResultByTime`: what one service cost in one period, as AWS states it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CostRecord {
    /// The period the figures are for.
    pub period: Period,
    /// AWS's display name of the service, such as `Amazon Relational Database Service`.
    pub service: CompactString,
    /// The value of the second grouping, where there is one; empty for rows without that tag.
    pub group: Option<CompactString>,
    /// One figure per configured metric.
    pub amounts: Amounts,
    /// AWS's flag: the month is still open.
    pub estimated: bool,
}

impl CostRecord {
    /// The record's identity; its figures are no part of it.
    pub fn key(&self) -> CostKey<'_> {
        CostKey { period: self.period, service: &self.service, group: self.group.as_deref() }
    }

    /// Whether every figure is zero. Two thirds of the rows of a real account are.
    pub fn is_zero(&self) -> bool {
        self.amounts.iter().all(|(_, amount)| amount.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_known_by_both_names_and_no_other() {
        for metric in CostMetric::ALL {
            assert_eq!(CostMetric::from_aws_name(metric.aws_name()), Some(metric));
            assert_eq!(CostMetric::from_member_name(metric.member_name()), Some(metric));
            assert_eq!(CostMetric::from_aws_name(metric.member_name()), None);
        }
        assert_eq!(CostMetric::from_aws_name("unblendedcost"), None);
    }
}
