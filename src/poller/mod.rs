//! The poller: which window is due, what it may cost, and one page of AWS's answer at a time.
//!
//! It knows nothing of what was published before; that is the ledger's business.

mod budget;
mod cost_explorer;
mod credentials;
mod error;
mod window;

pub use budget::{Allowance, Spent};
pub use cost_explorer::{CostExplorer, Page, http_client};
pub use error::{FetchError, FetchErrorKind};
pub use window::Window;
