//! `GetCostAndUsage`: one page at a time.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::cost::CostRecord;

/// One page of one window's answer.
#[derive(Clone, Debug)]
pub struct Page {
    /// Every Group of every `ResultByTime` of the page.
    pub records: Vec<CostRecord>,
    /// Names AWS gives to group values (`DimensionValueAttributes`, `description`).
    pub group_names: BTreeMap<String, String>,
    /// AWS's `Date` for this page, whole seconds.
    pub observed_at: Timestamp,
    /// Where the next page is; `None` on the last.
    pub next: Option<String>,
}
/// x
pub struct CostExplorer;
/// x
pub fn http_client() {}
