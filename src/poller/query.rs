//! What a connection asks of Cost Explorer, in the SDK's types, built once.

use aws_sdk_costexplorer::{
    error::BuildError,
    types::{
        CostCategoryValues, DateInterval, Dimension, DimensionValues, Expression,
        Granularity as AwsGranularity, GroupDefinition, GroupDefinitionType, MatchOption, TagValues,
    },
};

use super::Window;
use crate::{
    config::{ConnectionConfig, Filter, FilterValues},
    cost::{CostMetric, Granularity, GroupBy},
};

/// The part of a request that is the same for every window and page.
#[derive(Debug)]
pub(super) struct Query {
    /// Ordered, none twice.
    pub(super) metrics: Vec<CostMetric>,
    /// `SERVICE` first: the order of `Keys`.
    pub(super) group_by: Vec<GroupDefinition>,
    pub(super) filter: Option<Expression>,
    /// `team$` before every value of the tag or cost category `team`; `None` for a dimension.
    prefix: Option<String>,
}

impl Query {
    pub(super) fn new(connection: &ConnectionConfig) -> Self {
        let mut group_by = vec![group_definition(GroupDefinitionType::Dimension, "SERVICE")];
        let mut prefix = None;
        match &connection.group_by {
            None => {}
            Some(GroupBy::Dimension(name)) => {
                group_by.push(group_definition(GroupDefinitionType::Dimension, name));
            }
            Some(GroupBy::Tag(key)) => {
                group_by.push(group_definition(GroupDefinitionType::Tag, key));
                prefix = Some(format!("{key}$"));
            }
            Some(GroupBy::CostCategory(name)) => {
                group_by.push(group_definition(GroupDefinitionType::CostCategory, name));
                prefix = Some(format!("{name}$"));
            }
        }
        Self {
            metrics: connection.metrics.clone(),
            group_by,
            filter: connection.filter.as_ref().map(expression),
            prefix,
        }
    }

    /// Whether there is a second grouping.
    pub(super) fn is_grouped(&self) -> bool {
        self.group_by.len() > 1
    }

    /// Whether a figure after discounts is asked for, which an organisation can deny to members.
    pub(super) fn has_net(&self) -> bool {
        self.metrics
            .iter()
            .any(|metric| matches!(metric, CostMetric::NetAmortizedCost | CostMetric::NetUnblendedCost))
    }

    /// The bare value of the second key: of `team$web` it is `web`, of `team$` empty. `None` where the key
    /// lacks its prefix.
    pub(super) fn group_value<'k>(&self, key: &'k str) -> Option<&'k str> {
        match &self.prefix {
            None => Some(key),
            Some(prefix) => key.strip_prefix(prefix.as_str()),
        }
    }
}

/// `TimePeriod` of a window.
pub(super) fn time_period(window: &Window) -> Result<DateInterval, BuildError> {
    DateInterval::builder().start(&*window.aws_start()).end(&*window.aws_end()).build()
}

/// The SDK's name of a granularity.
pub(super) const fn granularity(granularity: Granularity) -> AwsGranularity {
    match granularity {
        Granularity::Daily => AwsGranularity::Daily,
        Granularity::Hourly => AwsGranularity::Hourly,
    }
}

fn group_definition(kind: GroupDefinitionType, key: &str) -> GroupDefinition {
    GroupDefinition::builder().r#type(kind).key(key).build()
}

fn expression(filter: &Filter) -> Expression {
    let builder = Expression::builder();
    match filter {
        Filter::And(all) => builder.set_and(Some(all.iter().map(expression).collect())),
        Filter::Or(any) => builder.set_or(Some(any.iter().map(expression).collect())),
        Filter::Not(inner) => builder.not(expression(inner)),
        Filter::Dimensions(operand) => builder.dimensions(
            DimensionValues::builder()
                .key(Dimension::from(operand.key.as_str()))
                .set_values(Some(operand.values.clone()))
                .set_match_options(match_options(operand))
                .build(),
        ),
        Filter::Tags(operand) => builder.tags(
            TagValues::builder()
                .key(&operand.key)
                .set_values(Some(operand.values.clone()))
                .set_match_options(match_options(operand))
                .build(),
        ),
        Filter::CostCategories(operand) => builder.cost_categories(
            CostCategoryValues::builder()
                .key(&operand.key)
                .set_values(Some(operand.values.clone()))
                .set_match_options(match_options(operand))
                .build(),
        ),
    }
    .build()
}

fn match_options(operand: &FilterValues) -> Option<Vec<MatchOption>> {
    let options: Vec<_> = operand.match_options.iter().map(|name| MatchOption::from(name.as_str())).collect();
    (!options.is_empty()).then_some(options)
}
