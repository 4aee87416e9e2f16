//! Signatures of requests, as Standard Webhooks has them (version 1.0.0 of its specification).
//!
//! `webhook-signature` is `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`; with several
//! secrets one signature each, so that a receiver can move from one to the next. Only the body is
//! signed: in binary mode the attributes are not.

use base64::{Engine as _, engine::general_purpose};
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::SecretString;
use sha2::Sha256;

/// The secrets of one endpoint; at least one.
#[derive(Clone)]
pub struct Signer {
    keys: Vec<Hmac<Sha256>>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({} secrets)", self.keys.len())
    }
}

/// A key shorter than this can be guessed; the specification asks for 24 to 64 bytes.
const SHORTEST: usize = 24;
const LONGEST: usize = 64;

impl Signer {
    /// Reads secrets, a line each: `whsec_` and base64 of 24 to 64 bytes.
    ///
    /// # Errors
    /// What is wrong with them; a secret is never part of it.
    pub fn parse(secrets: &SecretString) -> Result<Self, String> {
        use secrecy::ExposeSecret as _;
        let lines: Vec<_> =
            secrets.expose_secret().lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let keys = lines
            .iter()
            .enumerate()
            .map(|(index, line)| key(line).map_err(|problem| format!("secret {} {problem}", index + 1)))
            .collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() {
            return Err("there is no secret in it".to_owned());
        }
        Ok(Self { keys })
    }

    /// The value of `webhook-signature` for an attempt at this Unix time.
    pub fn signature(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let signatures = self.keys.iter().map(|key| {
            let mut mac = key.clone();
            mac.update(format!("{id}.{timestamp}.").as_bytes());
            mac.update(body);
            format!("v1,{}", general_purpose::STANDARD.encode(mac.finalize().into_bytes()))
        });
        signatures.collect::<Vec<_>>().join(" ")
    }
}

fn key(line: &str) -> Result<Hmac<Sha256>, String> {
    let text = line.strip_prefix("whsec_").ok_or("does not begin with `whsec_`")?;
    // Some tools leave the padding away.
    let bytes = general_purpose::STANDARD_NO_PAD
        .decode(text.trim_end_matches('='))
        .map_err(|_| "is not base64 after `whsec_`")?;
    if !(SHORTEST..=LONGEST).contains(&bytes.len()) {
        return Err(format!("is {} bytes long; expected {SHORTEST} to {LONGEST}", bytes.len()));
    }
    Ok(Hmac::new_from_slice(&bytes).expect("HMAC takes a key of any length"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const OTHER: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

    fn signer(text: &str) -> Result<Signer, String> {
        Signer::parse(&SecretString::from(text.to_owned()))
    }

    /// The vector of the specification's reference libraries.
    #[test]
    fn the_signature_is_the_reference_libraries() {
        let sign = |secrets: &str| {
            signer(secrets).unwrap().signature(
                "msg_p5jXN8AQM9LWM0D4loKWxJek",
                1_614_265_330,
                br#"{"test": 2432232314}"#,
            )
        };
        assert_eq!(sign(SECRET), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        let both = sign(&format!("{OTHER}\r\n\n {SECRET}\n"));
        let signatures: Vec<_> = both.split(' ').collect();
        assert_eq!(signatures.len(), 2);
        assert_eq!(signatures[0], sign(OTHER));
        assert_eq!(signatures[1], sign(SECRET));
    }

    #[test]
    fn id_time_and_body_are_signed() {
        let signer = signer(SECRET).unwrap();
        let signatures = [
            signer.signature("a", 1, b"x"),
            signer.signature("b", 1, b"x"),
            signer.signature("a", 2, b"x"),
            signer.signature("a", 1, b"y"),
        ];
        let distinct: std::collections::BTreeSet<_> = signatures.iter().collect();
        assert_eq!(distinct.len(), signatures.len());
    }

    #[test]
    fn bad_secrets_are_told_without_being_shown() {
        for (text, problem) in [
            ("", "there is no secret in it"),
            ("hunter2", "secret 1 does not begin with `whsec_`"),
            ("whsec_!!!", "secret 1 is not base64 after `whsec_`"),
            ("whsec_aHVudGVyMg==", "secret 1 is 7 bytes long; expected 24 to 64"),
            (&format!("{SECRET}\nwhsec_"), "secret 2 is 0 bytes long; expected 24 to 64"),
        ] {
            let error = signer(text).unwrap_err();
            assert_eq!(error, problem);
        }
        assert_eq!(format!("{:?}", signer(SECRET).unwrap()), "Signer(1 secrets)");
    }
}
