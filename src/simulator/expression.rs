//! The request member `Filter`: what AWS accepts, and whether a charge passes.
//!
//! Messages quoted from AWS are marked so; the others have AWS's code and words of our own.

use serde_json::Value;

use super::{
    query::{Dimension, Group},
    refusal::Refusal,
};

/// A filter that AWS would accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expression {
    And(Vec<Self>),
    Or(Vec<Self>),
    Not(Box<Self>),
    /// The value is one of these.
    OneOf(Group, Vec<String>),
    /// The tag or cost category is not set.
    Absent(Group),
}

const ROOTS: [&str; 7] = ["And", "Or", "Not", "Dimensions", "Tags", "CostCategories", "ProductAttributes"];

impl Expression {
    /// Reads the JSON of an `Expression`.
    ///
    /// # Errors
    /// `ValidationException` where AWS gives one.
    pub(super) fn parse(json: &Value) -> Result<Self, Refusal> {
        let members = json.as_object().ok_or_else(|| Refusal::serialization("Filter is not an object"))?;
        if let Some(unknown) = members.keys().find(|key| !ROOTS.contains(&key.as_str())) {
            return Err(Refusal::serialization(&format!("unknown member {unknown} of Filter")));
        }
        let mut roots = members.iter().filter(|(_, value)| !value.is_null());
        let Some((root, value)) = roots.next() else {
            return Err(Refusal::validation("Expression has no root. One root level operator is required."));
        };
        if roots.next().is_some() {
            // AWS's own words, from reports.
            return Err(Refusal::validation(
                "Expression has more than one roots. Only one root level operator is allowed for each \
                 expression: Or, And, Not, Dimension, Tag, CostCategory",
            ));
        }
        match root.as_str() {
            "And" => Ok(Self::And(operands("And", value)?)),
            "Or" => Ok(Self::Or(operands("Or", value)?)),
            "Not" => Ok(Self::Not(Box::new(Self::parse(value)?))),
            "Dimensions" => {
                let key = key(value)?;
                let dimension = Dimension::parse(&key)
                    .ok_or_else(|| Refusal::validation(&format!("Dimension {key} is not allowed.")))?;
                leaf(Group::Dimension(dimension), value)
            }
            "Tags" => leaf(Group::Tag(key(value)?), value),
            "CostCategories" => leaf(Group::CostCategory(key(value)?), value),
            _ => leaf(Group::ProductAttribute(key(value)?), value),
        }
    }

    /// Whether a charge passes whose values the function tells.
    pub(super) fn holds(&self, value: &dyn Fn(&Group) -> String) -> bool {
        match self {
            Self::And(operands) => operands.iter().all(|operand| operand.holds(value)),
            Self::Or(operands) => operands.iter().any(|operand| operand.holds(value)),
            Self::Not(operand) => !operand.holds(value),
            Self::OneOf(group, values) => values.contains(&value(group)),
            Self::Absent(group) => value(group).is_empty(),
        }
    }
}

fn operands(name: &str, json: &Value) -> Result<Vec<Expression>, Refusal> {
    let operands = json.as_array().ok_or_else(|| Refusal::serialization(&format!("{name} is not a list")))?;
    if operands.len() < 2 {
        // AWS's own words.
        return Err(Refusal::validation(&format!("{name} expression must have at least 2 operands")));
    }
    operands.iter().map(Expression::parse).collect()
}

fn key(json: &Value) -> Result<String, Refusal> {
    let key = json.get("Key").and_then(Value::as_str).filter(|key| !key.is_empty());
    key.map(str::to_owned).ok_or_else(|| Refusal::validation("Filter key must not be empty."))
}

fn leaf(group: Group, json: &Value) -> Result<Expression, Refusal> {
    let texts = |member: &str| -> Vec<String> {
        let list = json.get(member).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let options = texts("MatchOptions");
    if options.iter().any(|option| option == "ABSENT") && !matches!(group, Group::Dimension(_)) {
        return Ok(Expression::Absent(group));
    }
    if let Some(other) =
        options.iter().find(|option| !["EQUALS", "CASE_SENSITIVE"].contains(&option.as_str()))
    {
        return Err(Refusal::validation(&format!("Match option {other} is not supported.")));
    }
    let values = texts("Values");
    if values.is_empty() {
        return Err(Refusal::validation("Filter values must not be empty."));
    }
    Ok(Expression::OneOf(group, values))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_expression_is_accepted_or_refused_in_aws_words() {
        let tax = json!({"Dimensions": {"Key": "RECORD_TYPE", "Values": ["Tax"]}});
        let check = |filter: &Value, message: Option<&str>| match (Expression::parse(filter), message) {
            (Ok(_), None) => {}
            (Err(refusal), Some(message)) => {
                assert!(refusal.message.contains(message), "{filter} {refusal:?}");
            }
            (result, _) => panic!("{filter} {result:?}"),
        };
        check(&tax, None);
        check(&json!({"Not": tax}), None);
        check(&json!({"And": [tax, {"Not": tax}]}), None);
        check(&json!({"Or": [tax, tax]}), None);
        check(&json!({"Tags": {"Key": "team", "MatchOptions": ["ABSENT"]}}), None);
        check(&json!({"Dimensions": {"Key": "SERVICE", "Values": ["x"], "MatchOptions": ["EQUALS"]}}), None);
        check(&json!({}), Some("no root"));
        check(&json!({"Not": tax, "Or": [tax, tax]}), Some("Expression has more than one roots"));
        check(&json!({"And": [tax]}), Some("And expression must have at least 2 operands"));
        check(&json!({"Or": []}), Some("Or expression must have at least 2 operands"));
        check(&json!({"And": [tax, {"Or": [tax]}]}), Some("Or expression must have at least 2 operands"));
        for key in ["RESOURCE_ID", "CHARGE_TYPE"] {
            let filter = json!({"Dimensions": {"Key": key, "Values": ["x"]}});
            check(&filter, Some(&format!("Dimension {key} is not allowed.")));
        }
        check(&json!({"Dimensions": {"Key": "SERVICE", "Values": []}}), Some("values"));
        check(
            &json!({"Dimensions": {"Key": "SERVICE", "Values": ["A"], "MatchOptions": ["STARTS_WITH"]}}),
            Some("STARTS_WITH"),
        );
        check(&json!({"Dimension": {}}), Some("unknown member"));
    }

    #[test]
    fn operators_mean_what_they_say() {
        let service = json!({"Dimensions": {"Key": "SERVICE", "Values": ["Tax", "AWS Lambda"]}});
        let team = json!({"Tags": {"Key": "team", "Values": ["search"]}});
        let absent = json!({"Tags": {"Key": "team", "MatchOptions": ["ABSENT"]}});
        for (filter, tax_search, ec2_search, ec2_none) in [
            (service.clone(), true, false, false),
            (json!({"Not": service}), false, true, true),
            (json!({"And": [service, team]}), true, false, false),
            (json!({"Or": [service, team]}), true, true, false),
            (absent, false, false, true),
        ] {
            let expression = Expression::parse(&filter).unwrap();
            for (name, tag, expected) in [
                ("Tax", "search", tax_search),
                ("EC2 - Other", "search", ec2_search),
                ("EC2 - Other", "", ec2_none),
            ] {
                let value = |group: &Group| match group {
                    Group::Dimension(Dimension::Service) => name.to_owned(),
                    _ => tag.to_owned(),
                };
                assert_eq!(expression.holds(&value), expected, "{filter} {name} {tag}");
            }
        }
    }
}
