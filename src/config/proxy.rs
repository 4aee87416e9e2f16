//! The proxy of the environment, which is no setting of ours but everybody's.

use secrecy::SecretString;

/// The proxy for `https`, as the environment names it for every program.
#[derive(Debug)]
pub(crate) struct HttpsProxy {
    /// Of the proxy; may hold user and password.
    pub(crate) url: SecretString,
    /// `NO_PROXY`: hosts, domains and networks that are reached without it, with commas between.
    pub(crate) except: String,
}

impl HttpsProxy {
    /// `HTTPS_PROXY` or else `ALL_PROXY`, in capitals or not, with `NO_PROXY`.
    pub(crate) fn of_environment() -> Option<Self> {
        let url = first(&["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])?;
        // As every other program takes it: `proxy.example:3128`.
        let url = if url.contains("://") { url } else { format!("http://{url}") };
        Some(Self { url: url.into(), except: first(&["NO_PROXY", "no_proxy"]).unwrap_or_default() })
    }
}

/// The first of these variables that is not empty.
#[expect(clippy::disallowed_methods, reason = "the environment is read here")]
fn first(names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
}
