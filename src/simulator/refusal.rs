//! An answer that is no data: code, message and HTTP status, as AWS words them.
//!
//! AWS does not charge for these.

/// A refused request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) code: String,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn new(code: &str, message: &str) -> Self {
        Self { status: 400, code: code.to_owned(), message: message.to_owned() }
    }

    pub(super) fn validation(message: &str) -> Self {
        Self::new("ValidationException", message)
    }

    pub(super) fn serialization(message: &str) -> Self {
        Self::new("SerializationException", message)
    }

    /// A member that breaks the constraints of the service model, worded as AWS's framework does.
    pub(super) fn constraint(value: &str, member: &str, rule: &str) -> Self {
        Self::validation(&format!(
            "1 validation error detected: Value {value} at '{member}' failed to satisfy constraint: Member must {rule}"
        ))
    }

    /// The JSON of an error: `message` for the unmodelled `ValidationException`, `Message` with a
    /// namespace for the modelled ones, as both occur at AWS.
    pub(super) fn to_json(&self) -> String {
        let modelled = [
            "LimitExceededException",
            "BillExpirationException",
            "DataUnavailableException",
            "InvalidNextTokenException",
            "RequestChangedException",
            "ResourceNotFoundException",
            "BillingViewHealthStatusException",
        ];
        if modelled.contains(&self.code.as_str()) {
            let code = format!("com.amazonaws.costexplorer#{}", self.code);
            return serde_json::json!({"__type": code, "Message": self.message}).to_string();
        }
        let member = if self.code == "AccessDeniedException" { "Message" } else { "message" };
        serde_json::json!({"__type": self.code, member: self.message}).to_string()
    }
}
