//! The poller: which window is due, what it may cost, and one page of AWS's answer at a time.
//!
//! It knows nothing of what was published before; that is the ledger's business.

mod answer;
mod budget;
mod charges;
mod classify;
mod cost_explorer;
mod credentials;
mod error;
mod hints;
mod page;
mod query;
#[cfg(test)]
mod tests;
mod window;

pub use budget::{Allowance, Spent};
pub use charges::RequestCounts;
pub use cost_explorer::{CostExplorer, http_client};
#[cfg(feature = "kafka")]
pub(crate) use credentials::{Origin, load as load_credentials};
pub use error::{FetchError, FetchErrorKind};
pub use page::{Page, PageGuard};
pub use window::{Window, oldest_month, settles_on};
