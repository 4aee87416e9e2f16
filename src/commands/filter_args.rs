//! The options that say which events are wanted, shared by everything that reads them back.

use jiff::civil::Date;

use crate::{commands::date, consume::Filter, cost::Granularity};

/// Which events; all that is given must hold.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Which events")]
pub struct FilterArgs {
    /// Only this service, by its name or slug; repeated: any of them
    #[arg(long, value_name = "NAME")]
    pub service: Vec<String>,
    /// Only this account, paying or linked; repeated: any of them
    #[arg(long, value_name = "ID")]
    pub account: Vec<String>,
    /// Only `daily` or only `hourly` figures
    #[arg(long, value_parser = granularity)]
    pub granularity: Option<Granularity>,
    /// Only spend of this date or later, such as 2026-11-01
    #[arg(long, value_name = "DATE", value_parser = date)]
    pub from: Option<Date>,
    /// Only spend of this date or earlier
    #[arg(long, value_name = "DATE", value_parser = date)]
    pub to: Option<Date>,
    /// Only `new`, `revised` or `removed`; repeated: any of them
    #[arg(long, value_name = "CHANGE", value_parser = ["new", "revised", "removed"])]
    pub change: Vec<String>,
    /// A CloudEvents filter on attributes, as JSON: exact, prefix, suffix, all, any, not; repeated: all
    /// of them
    #[arg(long, value_name = "JSON", value_parser = Filter::parse_json)]
    pub filter: Vec<Filter>,
}

impl FilterArgs {
    /// What was asked for, as one filter.
    ///
    /// # Errors
    /// When the last date comes before the first; in words.
    pub fn filter(&self) -> Result<Filter, String> {
        let mut all = self.filter.clone();
        let services: Vec<_> = self.service.iter().map(|name| Filter::service(name)).collect();
        all.extend((!services.is_empty()).then_some(Filter::Any(services)));
        all.extend((!self.account.is_empty()).then(|| Filter::Account(self.account.clone())));
        all.extend(self.granularity.map(Filter::Granularity));
        let changes = self.change.iter();
        let changes: Vec<_> =
            changes.map(|change| Filter::Exact(vec![("change".to_owned(), change.clone())])).collect();
        all.extend((!changes.is_empty()).then_some(Filter::Any(changes)));
        if let (Some(from), Some(to)) = (self.from, self.to)
            && to < from
        {
            return Err(format!("`--to {to}` comes before `--from {from}`"));
        }
        if self.from.is_some() || self.to.is_some() {
            all.push(Filter::Spent { from: self.from, to: self.to });
        }
        Ok(Filter::All(all))
    }
}

fn granularity(text: &str) -> Result<Granularity, String> {
    Granularity::from_name(text).ok_or_else(|| "expected `daily` or `hourly`".to_owned())
}
