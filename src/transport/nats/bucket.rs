//! The key-value bucket: the connections' own state, written by compare-and-set on the revision seen.
//!
//! It is a bucket as every client knows it. What a state means is not decided here.

use bytes::Bytes;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Known, Nats, client::JetStream, flight::Item, layout, publish::Publisher, read};
use crate::{
    dedup::ConnectionState,
    event::uuid_v5,
    transport::{Delivery, TransportError, TransportErrorKind as Kind},
};

/// The version of the bucket's values this program writes, and the newest it reads.
const VERSION: u32 = 1;

/// A value of the bucket.
#[derive(Serialize, Deserialize)]
struct BucketValue {
    version: u32,
    #[serde(flatten)]
    state: ConnectionState,
}

/// A state as it is stored.
pub(super) fn value(state: ConnectionState) -> Vec<u8> {
    serde_json::to_vec(&BucketValue { version: VERSION, state }).expect("a state is plain data")
}

impl Nats {
    /// The connection's state as the bucket's leader has it, with its sequence and value.
    pub(super) async fn connection(
        &self,
        js: &JetStream,
        scope: &str,
    ) -> Result<(u64, Vec<u8>, ConnectionState), TransportError> {
        let bucket = js.stream(&layout::bucket_stream(&self.config.bucket)).await?;
        let key = layout::bucket_key(&self.config.bucket, scope);
        match js.last(&bucket, &key).await? {
            None => Ok((0, Vec::new(), ConnectionState::default())),
            Some(message) => {
                let state = bucket_value(&key, &message.payload)?;
                Ok((message.sequence, message.payload.to_vec(), state))
            }
        }
    }

    /// Writes the connection's state over the revision last seen.
    pub(super) async fn write(
        &self,
        js: &JetStream,
        scope: &str,
        known: &Known,
        value: Vec<u8>,
    ) -> Result<(), TransportError> {
        let name = layout::bucket_stream(&self.config.bucket);
        let bucket = js.stream(&name).await?;
        let subject = layout::bucket_key(&self.config.bucket, scope);
        let mut seed = format!("{subject}/{}/", known.revision).into_bytes();
        seed.extend_from_slice(&value);
        let item = Item {
            id: uuid_v5(Uuid::NAMESPACE_OID, &seed),
            subject: subject.into(),
            expected: known.revision,
            headers: Vec::new(),
            payload: Bytes::from(value.clone()),
        };
        let headers = item.headers(&name, true, true);
        let publisher = self.publisher(js, &bucket, &name);
        let publisher = Publisher { compare_and_set: true, ..publisher };
        match publisher.publish(1, stream::iter([Ok((item, headers))])).await?.as_slice() {
            [Delivery::Stored(revision)] => {
                let known = Known { revision: *revision, value, ..known.clone() };
                self.scopes().insert(scope.to_owned(), known);
                Ok(())
            }
            [Delivery::Rejected(reason)] => Err(TransportError::new(
                Kind::Rejected,
                format!("bucket `{}` refused the state of a connection: {reason}", self.config.bucket),
            )),
            _ => Err(TransportError::new(Kind::Unknown, "one state gave several answers")),
        }
    }

    /// Every connection of the bucket, by scope.
    pub(super) async fn every_connection(&self) -> Result<Vec<(String, ConnectionState)>, TransportError> {
        let js = self.js().await?;
        let name = layout::bucket_stream(&self.config.bucket);
        let stream = js.stream(&name).await?;
        let all = layout::bucket_key(&self.config.bucket, ">");
        let start = layout::bucket_key(&self.config.bucket, "");
        let mut connections = Vec::new();
        read::read(js, &stream, &name, &all, None, self.config.timeout, |message, _| {
            let scope = message.subject.strip_prefix(&*start).unwrap_or_default();
            connections.push((scope.to_owned(), bucket_value(&message.subject, &message.payload)?));
            Ok(())
        })
        .await?;
        connections.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(connections)
    }
}

/// A connection's state out of the bucket; deleted keys are empty.
fn bucket_value(key: &str, payload: &[u8]) -> Result<ConnectionState, TransportError> {
    if payload.is_empty() {
        return Ok(ConnectionState::default());
    }
    let foreign = |what: String| TransportError::new(Kind::Foreign, format!("the value of `{key}` {what}"));
    let value: BucketValue = serde_json::from_slice(payload)
        .map_err(|e| foreign(format!("is not the state of a connection: {e}")))?;
    if value.version > VERSION {
        let what = format!("has version {}, this program reads up to {VERSION}", value.version);
        return Err(foreign(what).with_hint("a newer version of this program wrote it: use that one"));
    }
    Ok(value.state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_the_bucket_are_versioned() {
        let state = ConnectionState { name: "main".to_owned(), ..Default::default() };
        let value = serde_json::to_value(BucketValue { version: VERSION, state: state.clone() }).unwrap();
        assert_eq!(bucket_value("k", value.to_string().as_bytes()).unwrap(), state);
        let newer = value.to_string().replace(r#""version":1"#, r#""version":2"#);
        assert_eq!(bucket_value("k", newer.as_bytes()).unwrap_err().kind, Kind::Foreign);
        assert_eq!(bucket_value("k", b"hello").unwrap_err().kind, Kind::Foreign);
        assert_eq!(bucket_value("k", b"").unwrap(), ConnectionState::default());
    }
}
