//! A page's rows from its bytes, where the SDK would first make maps of small strings of them.
//!
//! The SDK signs, sends, tries again and says what an error is. An answer that is a page is read here in
//! its place: its texts are borrowed until they are a record's, which takes half the time and a third of
//! the memory. What cannot be read here, the SDK is asked about.

use std::{
    borrow::Cow,
    fmt,
    marker::PhantomData,
    mem, str,
    sync::{Arc, Mutex, PoisonError},
};

use aws_sdk_costexplorer::operation::get_cost_and_usage::GetCostAndUsage;
use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::{
        interceptors::{
            Intercept,
            context::{BeforeSerializationInterceptorContextRef, Error as OperationError, Output},
        },
        orchestrator::{HttpResponse, OrchestratorError},
        runtime_plugin::RuntimePlugin as _,
        ser_de::{DeserializeResponse, SharedResponseDeserializer},
    },
};
use aws_smithy_types::{
    body::SdkBody,
    config_bag::{ConfigBag, FrozenLayer},
};
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use smallvec::SmallVec;

use super::{
    Window,
    page::{Malformed, Rows, into_rows},
    query::Query,
};

/// The answer, as far as it is of interest. Every member may be missing or null, as with the SDK.
///
/// Source: `GetCostAndUsage`, response syntax.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Answer<'a> {
    #[serde(borrow)]
    pub(super) results_by_time: Option<Vec<ResultByTime<'a>>>,
    #[serde(borrow)]
    pub(super) dimension_value_attributes: Option<Vec<Described<'a>>>,
    pub(super) next_page_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ResultByTime<'a> {
    #[serde(borrow)]
    pub(super) time_period: Option<TimePeriod<'a>>,
    #[serde(borrow)]
    pub(super) groups: Option<Vec<Group<'a>>>,
    pub(super) estimated: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct TimePeriod<'a> {
    #[serde(borrow)]
    pub(super) start: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) end: Option<Text<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Group<'a> {
    #[serde(borrow)]
    pub(super) keys: Option<Few<Text<'a>>>,
    #[serde(borrow)]
    pub(super) metrics: Option<Members<Text<'a>, MetricValue<'a>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct MetricValue<'a> {
    #[serde(borrow)]
    pub(super) amount: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) unit: Option<Text<'a>>,
}

/// A group value and what AWS says of it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Described<'a> {
    #[serde(borrow)]
    pub(super) value: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) attributes: Option<Members<Text<'a>, Text<'a>>>,
}

/// A text of the answer's own bytes, unless it has an escape.
#[derive(Default)]
pub(super) struct Text<'a>(pub(super) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfText;
        impl<'de> Visitor<'de> for OfText {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(OfText)
    }
}

/// The items of a list: two, nearly always.
pub(super) struct Few<T>(pub(super) SmallVec<[T; 2]>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Few<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfList<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for OfList<T> {
            type Value = Few<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut items = SmallVec::new();
                while let Some(item) = list.next_element()? {
                    items.push(item);
                }
                Ok(Few(items))
            }
        }
        deserializer.deserialize_seq(OfList(PhantomData))
    }
}

/// The members of an object, in its order: two, nearly always.
pub(super) struct Members<K, V>(pub(super) SmallVec<[(K, V); 2]>);

impl<'de, K: Deserialize<'de>, V: Deserialize<'de>> Deserialize<'de> for Members<K, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfObject<K, V>(PhantomData<(K, V)>);
        impl<'de, K: Deserialize<'de>, V: Deserialize<'de>> Visitor<'de> for OfObject<K, V> {
            type Value = Members<K, V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
                let mut members = SmallVec::new();
                while let Some(member) = object.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(OfObject(PhantomData))
    }
}

/// Reads the answers of one call.
#[derive(Debug)]
pub(super) struct Reader {
    window: Window,
    query: Arc<Query>,
    /// The operation's own configuration: its deserializer.
    sdk: FrozenLayer,
    rows: Mutex<Option<Result<Rows, Malformed>>>,
}

impl Reader {
    pub(super) fn new(window: Window, query: Arc<Query>) -> Arc<Self> {
        let sdk = GetCostAndUsage::new().config().expect("an operation is all configuration");
        Arc::new(Self { window, query, sdk, rows: Mutex::default() })
    }

    /// What was read of the newest answer.
    pub(super) fn take(&self) -> Result<Rows, Malformed> {
        let rows = mem::take(&mut *self.rows.lock().unwrap_or_else(PoisonError::into_inner));
        // Only of an SDK that asks another deserializer than the one it was given.
        rows.unwrap_or_else(|| Err(Malformed("the answer was not read".to_owned())))
    }

    /// # Errors
    /// When the bytes are not JSON of this form.
    pub(super) fn read(&self, body: &[u8]) -> Result<Result<Rows, Malformed>, BoxError> {
        let text = str::from_utf8(body)?;
        let answer = match text.trim_start().as_bytes().first() {
            // Without members, to the SDK too.
            _ if text.is_empty() => Answer::default(),
            Some(b'{') => serde_json::from_str(text)?,
            _ => return Err("it is no object".into()),
        };
        Ok(into_rows(answer, &self.window, &self.query))
    }
}

/// Sets a reader in the place of the SDK's deserializer, and is what stands there.
#[derive(Clone, Debug)]
pub(super) struct ReadBy(pub(super) Arc<Reader>);

impl Intercept for ReadBy {
    fn name(&self) -> &'static str {
        "ReadBy"
    }

    fn read_before_execution(
        &self,
        _: &BeforeSerializationInterceptorContextRef<'_>,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        bag.interceptor_state().store_put(SharedResponseDeserializer::new(self.clone()));
        Ok(())
    }
}

impl DeserializeResponse for ReadBy {
    fn deserialize_nonstreaming_with_config(
        &self,
        response: &HttpResponse,
        bag: &ConfigBag,
    ) -> Result<Output, OrchestratorError<OperationError>> {
        let sdk = self.0.sdk.load::<SharedResponseDeserializer>().expect("and in it how to read an answer");
        let body = response.body().bytes().filter(|_| response.status().is_success());
        let Some(body) = body else { return sdk.deserialize_nonstreaming_with_config(response, bag) };
        let (rows, output) = match self.0.read(body) {
            Ok(rows) => {
                // The rest of its output is in the headers.
                let mut rest = HttpResponse::new(response.status(), SdkBody::from("{}"));
                *rest.headers_mut() = response.headers().clone();
                (rows, sdk.deserialize_nonstreaming_with_config(&rest, bag)?)
            }
            Err(error) => {
                let output = sdk.deserialize_nonstreaming_with_config(response, bag)?;
                (Err(Malformed(format!("the answer was no JSON of Cost Explorer: {error}"))), output)
            }
        };
        *self.0.rows.lock().unwrap_or_else(PoisonError::into_inner) = Some(rows);
        Ok(output)
    }
}
