//! What the invented company buys: services, accounts, regions and teams, by small numbers.
//!
//! Only names and proportions; no amounts of a day, no time.

/// Linked accounts of one paying account; the first is the paying account itself.
pub(crate) const ACCOUNT_NAMES: [&str; 4] =
    ["Example Management", "Example Production", "Example Staging", "Example Data Platform"];

/// How many linked accounts a paying account has, itself included.
pub(crate) const ACCOUNTS: usize = ACCOUNT_NAMES.len();

/// Regions as the dimension `REGION` names them; `NoRegion` is for charges of no region.
pub(crate) const REGIONS: [&str; 4] = ["us-east-1", "eu-west-1", "global", "NoRegion"];

/// Values of the cost allocation tag `team`; empty where the tag is not set.
pub(crate) const TEAMS: [&str; 4] = ["", "payments", "platform", "search"];

/// Values of the cost category `unit`, by linked account.
pub(crate) const CATEGORIES: [&str; ACCOUNTS] = ["", "Product", "Product", "Engineering"];

/// Units of usage; the last is also what a mixture has.
pub(crate) const UNITS: [&str; 4] = ["Hrs", "GB-Mo", "Requests", "N/A"];

/// The number of the unit `N/A`.
pub(crate) const NO_UNIT: u8 = 3;

/// Charge types, the values of the dimension `RECORD_TYPE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum RecordType {
    Usage,
    Recurring,
    DiscountedUsage,
    SavingsPlanRecurringFee,
    SavingsPlanCoveredUsage,
    SavingsPlanNegation,
    Credit,
    Refund,
    Support,
    Tax,
}

/// The names of [`RecordType`], by number.
pub(crate) const RECORD_TYPES: [&str; 10] = [
    "Usage",
    "Recurring",
    "DiscountedUsage",
    "SavingsPlanRecurringFee",
    "SavingsPlanCoveredUsage",
    "SavingsPlanNegation",
    "Credit",
    "Refund",
    "Support",
    "Tax",
];

/// How a day's cost lies over its hours and the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The same every hour of every day: storage, reserved capacity.
    Steady,
    /// Follows the customers: heavier by day and on weekdays.
    Traffic,
    /// Follows the developers: weekdays from 8 to 18 only.
    Office,
    /// Runs at night, from 1 to 4.
    Nightly,
}

/// One part of a service's cost: who, where, for whom, how much of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    pub(crate) account: u8,
    pub(crate) region: u8,
    pub(crate) team: u8,
    pub(crate) percent: i64,
    pub(crate) unit: u8,
}

/// A service with a cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Service {
    /// As AWS displays it.
    pub(crate) name: &'static str,
    /// US cents on a mean day.
    pub(crate) cents: i64,
    pub(crate) shape: Shape,
    pub(crate) shares: &'static [Share],
}

const fn share(account: u8, region: u8, team: u8, percent: i64, unit: u8) -> Share {
    Share { account, region, team, percent, unit }
}

const HOURS: &[Share] =
    &[share(1, 0, 1, 46, 0), share(1, 1, 3, 24, 0), share(2, 0, 0, 14, 0), share(3, 0, 2, 16, 0)];
const MIXED: &[Share] =
    &[share(1, 0, 1, 52, 1), share(1, 1, 3, 18, 2), share(2, 0, 0, 9, 1), share(3, 0, 2, 21, 2)];
const PRODUCTION: &[Share] = &[share(1, 0, 1, 83, 0), share(2, 0, 0, 17, 0)];
const REQUESTS: &[Share] = &[share(1, 0, 1, 70, 2), share(3, 0, 2, 30, 2)];
const STORAGE: &[Share] = &[share(1, 0, 2, 100, 1)];
const DATA: &[Share] = &[share(3, 0, 2, 100, 0)];
const GLOBAL: &[Share] = &[share(1, 2, 0, 100, 2)];
const PAYER: &[Share] = &[share(0, 0, 0, 100, 2)];

const fn service(name: &'static str, cents: i64, shape: Shape, shares: &'static [Share]) -> Service {
    Service { name, cents, shape, shares }
}

/// Services with a cost: about 1,500 US dollars on a mean day.
pub(crate) const SERVICES: [Service; 32] = [
    service("Amazon Elastic Compute Cloud - Compute", 41_200, Shape::Traffic, HOURS),
    service("EC2 - Other", 13_900, Shape::Traffic, MIXED),
    service("Amazon Relational Database Service", 20_700, Shape::Steady, HOURS),
    service("Amazon Simple Storage Service", 9_600, Shape::Steady, MIXED),
    service("AWS Lambda", 1_840, Shape::Traffic, REQUESTS),
    service("Amazon Bedrock", 5_730, Shape::Office, REQUESTS),
    service("AmazonCloudWatch", 4_620, Shape::Traffic, MIXED),
    service("Amazon Virtual Private Cloud", 3_810, Shape::Steady, HOURS),
    service("Amazon Elastic Load Balancing", 3_120, Shape::Traffic, HOURS),
    service("Amazon ElastiCache", 5_240, Shape::Steady, PRODUCTION),
    service("Amazon OpenSearch Service", 6_150, Shape::Steady, PRODUCTION),
    service("Amazon DynamoDB", 3_330, Shape::Traffic, REQUESTS),
    service("Amazon CloudFront", 2_410, Shape::Traffic, GLOBAL),
    service("Amazon Elastic Container Service for Kubernetes", 1_440, Shape::Steady, PRODUCTION),
    service("Amazon Elastic Container Service", 2_620, Shape::Traffic, PRODUCTION),
    service("Amazon EC2 Container Registry (ECR)", 320, Shape::Steady, STORAGE),
    service("Amazon Managed Streaming for Apache Kafka", 4_430, Shape::Steady, DATA),
    service("AWS Glue", 2_240, Shape::Nightly, DATA),
    service("Amazon Athena", 610, Shape::Office, DATA),
    service("Amazon GuardDuty", 1_210, Shape::Traffic, PAYER),
    service("AWS Backup", 820, Shape::Nightly, STORAGE),
    service("Amazon Elastic File System", 640, Shape::Steady, STORAGE),
    service("AWS Config", 510, Shape::Traffic, PAYER),
    service("AWS WAF", 430, Shape::Traffic, GLOBAL),
    service("AWS CloudTrail", 310, Shape::Traffic, PAYER),
    service("CodeBuild", 260, Shape::Office, DATA),
    service("AWS Key Management Service", 210, Shape::Steady, REQUESTS),
    service("AWS Secrets Manager", 190, Shape::Steady, STORAGE),
    service("Amazon Route 53", 120, Shape::Traffic, GLOBAL),
    service("Amazon Simple Queue Service", 80, Shape::Traffic, REQUESTS),
    service("Amazon Simple Notification Service", 40, Shape::Traffic, REQUESTS),
    service("AWS Data Transfer", 1_720, Shape::Traffic, GLOBAL),
];

/// The numbers of the services that [`super::charges`] treats in a way of their own.
pub(crate) const EC2: u8 = 0;
pub(crate) const EC2_OTHER: u8 = 1;
pub(crate) const RDS: u8 = 2;
pub(crate) const LAMBDA: u8 = 4;
pub(crate) const BEDROCK: u8 = 5;

/// Services with charges of their own kind, numbered after [`SERVICES`].
pub(crate) const SPECIAL: [&str; 7] = [
    "Tax",
    "AWS Support (Business)",
    "Savings Plans for AWS Compute usage",
    "AWS Cost Explorer",
    "Amazon Kinesis Analytics",
    "Amazon Timestream",
    "AWS Outposts",
];

#[expect(clippy::cast_possible_truncation, reason = "a table of 32 lines")]
const FIRST_SPECIAL: u8 = SERVICES.len() as u8;
pub(crate) const TAX: u8 = FIRST_SPECIAL;
pub(crate) const SUPPORT: u8 = FIRST_SPECIAL + 1;
pub(crate) const SAVINGS_PLANS: u8 = FIRST_SPECIAL + 2;
pub(crate) const COST_EXPLORER: u8 = FIRST_SPECIAL + 3;
/// Services to which charges are attributed by mistake, and withdrawn: three of them.
pub(crate) const MISTAKEN: u8 = FIRST_SPECIAL + 4;
/// The first of the services that cost nothing.
#[expect(clippy::cast_possible_truncation, reason = "a table of 7 lines")]
pub(crate) const FIRST_FREE: u8 = FIRST_SPECIAL + SPECIAL.len() as u8;

/// Services in use within their free tier: a row of zero nearly every day.
pub(crate) const FREE: [&str; 60] = [
    "AWS Amplify",
    "AWS AppSync",
    "AWS Application Migration Service",
    "AWS Budgets",
    "AWS Certificate Manager",
    "AWS Cloud Map",
    "AWS CloudFormation",
    "AWS CloudShell",
    "AWS CodeArtifact",
    "AWS CodeCommit",
    "AWS CodeDeploy",
    "AWS CodePipeline",
    "AWS Database Migration Service",
    "AWS Directory Service",
    "AWS Elemental MediaConvert",
    "AWS Firewall Manager",
    "AWS Global Accelerator",
    "AWS IoT",
    "AWS IoT Device Management",
    "AWS Migration Hub Refactor Spaces",
    "AWS Security Hub",
    "AWS Service Catalog",
    "AWS Step Functions",
    "AWS Systems Manager",
    "AWS Transfer Family",
    "AWS X-Ray",
    "Amazon API Gateway",
    "Amazon AppStream",
    "Amazon Chime",
    "Amazon Cognito",
    "Amazon Comprehend",
    "Amazon Connect",
    "Amazon Detective",
    "Amazon FSx",
    "Amazon Glacier",
    "Amazon Inspector",
    "Amazon Kendra",
    "Amazon Kinesis",
    "Amazon Kinesis Firehose",
    "Amazon Lex",
    "Amazon Lightsail",
    "Amazon Location Service",
    "Amazon MQ",
    "Amazon Macie",
    "Amazon Neptune",
    "Amazon Pinpoint",
    "Amazon Polly",
    "Amazon QuickSight",
    "Amazon Redshift",
    "Amazon Registrar",
    "Amazon Rekognition",
    "Amazon SageMaker",
    "Amazon Simple Email Service",
    "Amazon Simple Workflow Service",
    "Amazon SimpleDB",
    "Amazon Textract",
    "Amazon Transcribe",
    "Amazon Translate",
    "Amazon WorkSpaces",
    "CloudWatch Events",
];

/// How many services there are in all.
pub(crate) const SERVICE_COUNT: usize = SERVICES.len() + SPECIAL.len() + FREE.len();

/// The name of a service by its number.
pub(crate) fn service_name(number: u8) -> &'static str {
    let number = usize::from(number);
    if let Some(service) = SERVICES.get(number) {
        return service.name;
    }
    let number = number - SERVICES.len();
    SPECIAL.get(number).copied().unwrap_or_else(|| FREE[number - SPECIAL.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_has_one_number_and_one_name() {
        let mut names: Vec<_> =
            (0..SERVICE_COUNT).map(|number| service_name(u8::try_from(number).unwrap())).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), SERVICE_COUNT);
        assert_eq!(service_name(RDS), "Amazon Relational Database Service");
        assert_eq!(service_name(LAMBDA), "AWS Lambda");
        assert_eq!(service_name(BEDROCK), "Amazon Bedrock");
        assert_eq!(service_name(TAX), "Tax");
        assert_eq!(service_name(COST_EXPLORER), "AWS Cost Explorer");
        assert_eq!(service_name(FIRST_FREE), "AWS Amplify");
    }

    #[test]
    fn the_shares_of_a_service_are_the_whole_of_it() {
        for service in &SERVICES {
            assert_eq!(
                service.shares.iter().map(|share| share.percent).sum::<i64>(),
                100,
                "{}",
                service.name
            );
        }
        let cents: i64 = SERVICES.iter().map(|service| service.cents).sum();
        assert!((120_000..180_000).contains(&cents), "{cents}");
    }
}
