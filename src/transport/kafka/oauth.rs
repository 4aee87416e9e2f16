//! Tokens by OAuth's client credentials grant (RFC 6749, 4.4), as every OpenID provider gives them.
//!
//! The token is not looked into, but for its end where the provider does not tell it.

use std::{fs, time::Duration};

use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use jiff::{SignedDuration, Timestamp};
use reqwest::{
    Certificate, Client, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use url::form_urlencoded;

use super::token::Token;
use crate::{
    config::{ClientAuth, OauthConfig, SecretSource},
    http::{self, reason},
    transport::{TransportError, TransportErrorKind as Kind},
};

/// Of an answer no more is read.
const LARGEST_ANSWER: usize = 64 * 1024;

/// Of a provider's own words no more is repeated.
const LONGEST_WORDS: usize = 300;

/// How long a token is taken to be good where neither the answer nor the token tells.
const UNTOLD: SignedDuration = SignedDuration::from_mins(5);

pub(super) struct Oauth {
    config: OauthConfig,
    http: Client,
}

impl Oauth {
    pub(super) fn new(config: &OauthConfig) -> Result<Self, TransportError> {
        let refused =
            |what: String, hint: &'static str| TransportError::new(Kind::Rejected, what).with_hint(hint);
        let mut http = http::builder(Duration::from_secs(9))
            .connect_timeout(Duration::from_secs(5))
            .pool_max_idle_per_host(0);
        if let Some(path) = &config.ca_file {
            let hint = "`kafka.oauth.ca_file` is a file of certificates in PEM";
            let shown = path.display();
            let pem = fs::read(path).map_err(|e| refused(format!("could not read `{shown}`: {e}"), hint))?;
            let authorities = Certificate::from_pem_bundle(&pem)
                .ok()
                .filter(|authorities| !authorities.is_empty())
                .ok_or_else(|| refused(format!("there is no certificate in `{shown}`"), hint))?;
            http = http.tls_certs_only(authorities);
        }
        let http = http.build().map_err(|e| {
            refused(
                format!("could not prepare for `{}`: {}", config.token_endpoint, reason(&e)),
                "see `kafka.oauth`",
            )
        })?;
        Ok(Self { config: config.clone(), http })
    }

    pub(super) async fn fetch(&self, now: Timestamp) -> Result<Token, TransportError> {
        let secret = self.secret()?;
        let request = self
            .http
            .post(&self.config.token_endpoint)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, "application/json");
        let request = match self.config.client_auth {
            ClientAuth::Post => request,
            ClientAuth::Basic => request.header(AUTHORIZATION, basic(&self.config.client_id, &secret)),
        };
        let answer = request.body(self.form(&secret)).send().await.map_err(|e| self.unreached(&e))?;
        let status = answer.status();
        let body = self.body(answer).await?;
        if status != StatusCode::OK {
            return Err(self.refused(status, &body));
        }
        self.token(&body, now)
    }

    fn form(&self, secret: &SecretString) -> String {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        for (name, value) in [("scope", &self.config.scope), ("audience", &self.config.audience)] {
            if let Some(value) = value {
                form.append_pair(name, value);
            }
        }
        if self.config.client_auth == ClientAuth::Post {
            form.append_pair("client_id", &self.config.client_id);
            form.append_pair("client_secret", secret.expose_secret());
        }
        form.finish()
    }

    /// Read anew each time: it may have been rotated.
    fn secret(&self) -> Result<SecretString, TransportError> {
        match &self.config.client_secret {
            SecretSource::Text(secret) => Ok(secret.clone()),
            SecretSource::File(path) => match fs::read_to_string(path) {
                Ok(text) if !text.trim().is_empty() => Ok(text.trim().into()),
                Ok(_) => Err(unreadable(path, "it is empty")),
                Err(error) => Err(unreadable(path, &error.to_string())),
            },
        }
    }

    async fn body(&self, mut answer: reqwest::Response) -> Result<Vec<u8>, TransportError> {
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|e| self.unreached(&e))? {
            body.extend_from_slice(&chunk);
            if body.len() > LARGEST_ANSWER {
                return Err(self.not_a_token("the answer is too large"));
            }
        }
        Ok(body)
    }

    fn token(&self, body: &[u8], now: Timestamp) -> Result<Token, TransportError> {
        let answer: Value =
            serde_json::from_slice(body).map_err(|_| self.not_a_token("the answer is not JSON"))?;
        let value = answer["access_token"].as_str().unwrap_or_default();
        if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(self.not_a_token("the answer has no `access_token`"));
        }
        if answer["token_type"].as_str().is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer")) {
            return Err(self.not_a_token("the token's `token_type` is not `Bearer`"));
        }
        // A number; some providers write it as text.
        let told = &answer["expires_in"];
        let seconds = told.as_i64().or_else(|| told.as_str().and_then(|text| text.parse().ok()));
        let expires = match seconds {
            Some(seconds) => now.saturating_add(SignedDuration::from_secs(seconds)).ok(),
            None => end_of(value).or_else(|| now.saturating_add(UNTOLD).ok()),
        };
        Ok(Token {
            value: value.to_owned(),
            principal: self.config.client_id.clone(),
            expires: expires.unwrap_or(now),
        })
    }

    fn unreached(&self, error: &reqwest::Error) -> TransportError {
        let text = reason(error);
        let message = format!("could not get a token from `{}`: {text}", self.config.token_endpoint);
        if text.contains("certificate") {
            return TransportError::new(Kind::Rejected, message).with_hint(
                "the endpoint's certificate is not trusted; set `kafka.oauth.ca_file` to the file of its CA",
            );
        }
        TransportError::new(Kind::Unavailable, message)
            .with_hint("is `kafka.oauth.token_endpoint` right, and up? Nothing is lost; it is tried again")
    }

    /// By RFC 6749, 5.2: `error`, and perhaps `error_description`.
    fn refused(&self, status: StatusCode, body: &[u8]) -> TransportError {
        let answer: Value = serde_json::from_slice(body).unwrap_or_default();
        let code = answer["error"].as_str().unwrap_or_default();
        let words = match (code, answer["error_description"].as_str()) {
            ("", _) => String::new(),
            (code, None) => format!(": {}", plain(code)),
            (code, Some(words)) => format!(": {}: {}", plain(code), plain(words)),
        };
        let message = format!(
            "could not get a token from `{}`: it answered {}{words}",
            self.config.token_endpoint,
            status.as_u16()
        );
        if status.is_server_error() || matches!(status.as_u16(), 408 | 429) {
            return TransportError::new(Kind::Unavailable, message)
                .with_hint("the token endpoint is in trouble; nothing is lost, it is tried again");
        }
        let hint = match code {
            "invalid_client" => {
                "client or secret are wrong; see `kafka.oauth.client_id` and `client_secret_file`, and whether the \
                 provider wants `client_auth = \"post\"`"
            }
            "invalid_scope" => "see `kafka.oauth.scope`",
            "unauthorized_client" | "unsupported_grant_type" => {
                "allow this client the grant `client_credentials` at the provider"
            }
            "invalid_request" | "invalid_target" => {
                "the provider wants more, or less: see `kafka.oauth.scope`, `audience` and `client_auth`"
            }
            _ if status == StatusCode::UNAUTHORIZED => {
                "client or secret are wrong; see `kafka.oauth.client_id` and `client_secret_file`"
            }
            _ => {
                "is `kafka.oauth.token_endpoint` right? It is not the issuer, but what its configuration names"
            }
        };
        TransportError::new(Kind::Rejected, message).with_hint(hint)
    }

    fn not_a_token(&self, why: &str) -> TransportError {
        let message = format!("could not get a token from `{}`: {why}", self.config.token_endpoint);
        TransportError::new(Kind::Rejected, message).with_hint(
            "is `kafka.oauth.token_endpoint` right? It is not the issuer, but what its configuration names",
        )
    }
}

/// Both encoded as in a form before they are joined (RFC 6749, 2.3.1).
fn basic(id: &str, secret: &SecretString) -> HeaderValue {
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let joined = format!("{}:{}", encoded(id), encoded(secret.expose_secret()));
    let value = format!("Basic {}", BASE64_STANDARD.encode(joined));
    let mut value = HeaderValue::try_from(value).expect("Base64 is fit for a header");
    value.set_sensitive(true);
    value
}

/// `exp` of a token that is a JWT.
fn end_of(token: &str) -> Option<Timestamp> {
    let claims = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    Timestamp::from_second(claims["exp"].as_i64()?).ok()
}

fn unreadable(path: &std::path::Path, why: &str) -> TransportError {
    let message = format!("could not read the client's secret in `{}`: {why}", path.display());
    TransportError::new(Kind::Unavailable, message)
        .with_hint("see `kafka.oauth.client_secret_file`; it is read for every token, and tried again")
}

/// Another's words, fit for a line of a log.
fn plain(words: &str) -> String {
    words.chars().take(LONGEST_WORDS).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn oauth() -> Oauth {
        Oauth::new(&OauthConfig {
            token_endpoint: "https://login.example.com/token".to_owned(),
            client_id: "a b".to_owned(),
            client_secret: SecretSource::Text("s:1".into()),
            client_auth: ClientAuth::Basic,
            scope: None,
            audience: None,
            ca_file: None,
        })
        .unwrap()
    }

    #[test]
    fn the_end_of_a_token_is_told_by_the_answer_or_by_the_token() {
        let now: Timestamp = "2026-11-21T06:00:00Z".parse().unwrap();
        let jwt = format!("h.{}.s", BASE64_URL_SAFE_NO_PAD.encode(r#"{"exp":1795242370}"#));
        for (answer, expected) in [
            (
                r#"{"access_token":"t","token_type":"Bearer","expires_in":300}"#.to_owned(),
                "2026-11-21T06:05:00Z",
            ),
            (r#"{"access_token":"t","expires_in":"60"}"#.to_owned(), "2026-11-21T06:01:00Z"),
            (format!(r#"{{"access_token":"{jwt}"}}"#), "2026-11-21T06:26:10Z"),
            (r#"{"access_token":"t"}"#.to_owned(), "2026-11-21T06:05:00Z"),
        ] {
            let token = oauth().token(answer.as_bytes(), now).unwrap();
            assert_eq!(token.expires.to_string(), expected, "{answer}");
        }
        for answer in ["<html>", "{}", r#"{"access_token":""}"#, r#"{"access_token":"a","token_type":"mac"}"#]
        {
            assert_eq!(oauth().token(answer.as_bytes(), now).err().unwrap().kind, Kind::Rejected, "{answer}");
        }
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        for (status, body, kind, words) in [
            (
                401,
                r#"{"error":"invalid_client","error_description":"no\nway"}"#,
                Kind::Rejected,
                "client_secret_file",
            ),
            (400, r#"{"error":"invalid_scope"}"#, Kind::Rejected, "kafka.oauth.scope"),
            (400, r#"{"error":"unauthorized_client"}"#, Kind::Rejected, "grant `client_credentials`"),
            (404, "<html>", Kind::Rejected, "token_endpoint"),
            (302, "", Kind::Rejected, "token_endpoint"),
            (503, "", Kind::Unavailable, "tried again"),
            (429, "{}", Kind::Unavailable, "tried again"),
        ] {
            let error = oauth().refused(StatusCode::from_u16(status).unwrap(), body.as_bytes());
            assert_eq!(error.kind, kind, "{error}");
            assert!(error.hint.as_ref().unwrap().contains(words), "{error:?}");
            assert!(error.message.contains(&status.to_string()) && !error.message.contains('\n'), "{error}");
        }
    }

    #[test]
    fn client_and_secret_are_encoded_before_they_are_joined() {
        let value = basic("a b", &"s:1+%".into());
        assert_eq!(value.to_str().unwrap(), format!("Basic {}", BASE64_STANDARD.encode("a+b:s%3A1%2B%25")));
        assert!(value.is_sensitive());
    }
}
