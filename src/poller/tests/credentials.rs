//! Whose account it is, and roles.

use aws_credential_types::{
    Credentials,
    provider::{ProvideCredentials, SharedCredentialsProvider, error::CredentialsError, future},
};

use super::{
    server::{Answer, Server},
    *,
};
use crate::poller::RequestCounts;

fn xml(status: u16, body: &str) -> Answer {
    Answer::Http(status, server::dated(), body.to_owned())
}

fn identity(account: &str) -> Answer {
    xml(
        200,
        &format!(
            "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
             <GetCallerIdentityResult><Arn>arn:aws:iam::{account}:user/a</Arn><UserId>A</UserId>\
             <Account>{account}</Account></GetCallerIdentityResult>\
             <ResponseMetadata><RequestId>r-1</RequestId></ResponseMetadata></GetCallerIdentityResponse>"
        ),
    )
}

fn sts_error(code: &str, message: &str) -> Answer {
    xml(
        403,
        &format!(
            "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
             <Code>{code}</Code><Message>{message}</Message></Error><RequestId>r-2</RequestId></ErrorResponse>"
        ),
    )
}

fn assumed() -> Answer {
    xml(
        200,
        "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult>\
         <AssumedRoleUser><Arn>arn:aws:sts::111122223333:assumed-role/billing/s</Arn>\
         <AssumedRoleId>AROA:s</AssumedRoleId></AssumedRoleUser>\
         <Credentials><AccessKeyId>ASIAROLE</AccessKeyId><SecretAccessKey>ROLE-SECRET</SecretAccessKey>\
         <SessionToken>ROLE-TOKEN</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>\
         </AssumeRoleResult><ResponseMetadata><RequestId>r-3</RequestId></ResponseMetadata></AssumeRoleResponse>",
    )
}

#[tokio::test]
async fn the_account_is_configured_or_asked_for_free() {
    let server = Server::start([identity("444455556666")]).await;
    let mut connection = connection(&server.url);
    connection.account_id = Some("111122223333".to_owned());
    let configured = client(&connection).await;
    assert_eq!(configured.account_id().await.unwrap(), "111122223333");
    assert_eq!(server.requests().len(), 0);
    assert_eq!(configured.caller_identity().await.unwrap(), "444455556666");

    connection.account_id = None;
    let asked = client(&connection).await;
    assert_eq!(asked.account_id().await.unwrap(), "444455556666");
    assert_eq!(asked.take_spent(), 0);
    assert_eq!(asked.requests(), RequestCounts::default());
    let authorization = server.requests()[1].header("authorization").to_owned();
    assert!(authorization.contains("/us-east-1/sts/aws4_request"), "{authorization}");
}

#[tokio::test]
async fn sts_that_refuses_or_is_none() {
    for (answer, expected) in [
        (
            sts_error("InvalidClientTokenId", "The security token included in the request is invalid."),
            "denied InvalidClientTokenId",
        ),
        (
            sts_error("ExpiredToken", "The security token included in the request is expired"),
            "denied ExpiredToken",
        ),
        (identity("not-an-account"), "malformed -"),
        (Answer::html(200), "malformed -"),
        (Answer::html(503), "unavailable -"),
        (Answer::Silent, "unavailable -"),
    ] {
        let timeouts = if matches!(answer, Answer::Silent) { SHORT } else { PATIENT };
        let server = Server::start([answer]).await;
        let client = client_with(&connection(&server.url), &http_client(), timeouts).await;
        let error = client.account_id().await.unwrap_err();
        let text = rendered(&error);
        assert!(text.starts_with(expected), "{text}");
        assert!(text.contains("could not ask STS for the account for connection `main`"), "{text}");
    }
}

/// A connection that assumes a role.
fn role(endpoint: &str, profile: Option<&str>) -> ConnectionConfig {
    let mut connection = connection(endpoint);
    connection.credentials = CredentialsConfig::Role {
        role_arn: "arn:aws:iam::111122223333:role/billing".to_owned(),
        external_id: Some("external-1".to_owned()),
        session_name: "amazon-billing-source".to_owned(),
        profile: profile.map(str::to_owned),
    };
    connection
}

/// Static keys in a role's base: what the default chain would find in the environment.
async fn role_client(connection: &ConnectionConfig, timeouts: Timeouts) -> CostExplorer {
    let keys = Credentials::new("AKIABASE", "SECRET-ACCESS-KEY", None, None, "test");
    let base = SharedCredentialsProvider::new(keys);
    CostExplorer::with(connection, &http_client(), Clock::system(), timeouts, Some(base)).await
}

#[tokio::test]
async fn a_role_is_assumed_once_with_its_external_id() {
    let sts = Server::start([assumed()]).await;
    let server = Server::start([Answer::json("{}")]).await;
    let mut connection = role(&server.url, None);
    connection.sts_endpoint_url = Some(sts.url.clone());
    let client = role_client(&connection, PATIENT).await;
    client.page(&window(), None).await.unwrap();
    client.page(&window(), None).await.unwrap();
    let assumed = sts.requests();
    assert_eq!(assumed.len(), 1);
    insta::assert_snapshot!(assumed[0].body, @"Action=AssumeRole&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A111122223333%3Arole%2Fbilling&RoleSessionName=amazon-billing-source&ExternalId=external-1");
    assert!(assumed[0].header("authorization").contains("AKIABASE"));
    for request in server.requests() {
        assert!(request.header("authorization").contains("ASIAROLE"));
        assert_eq!(request.header("x-amz-security-token"), "ROLE-TOKEN");
    }
    assert_eq!(client.take_spent(), 2);
}

#[tokio::test]
async fn a_role_that_may_not_be_assumed() {
    let mut texts = Vec::new();
    for answer in [
        sts_error(
            "AccessDenied",
            "User: arn:aws:iam::444455556666:user/a is not authorized to perform: sts:AssumeRole on resource: arn:aws:iam::111122223333:role/billing",
        ),
        sts_error("ExpiredToken", "The security token included in the request is expired"),
        sts_error("ValidationError", "1 validation error detected"),
        Answer::html(503),
    ] {
        let server = Server::start([answer]).await;
        let client = role_client(&role(&server.url, None), PATIENT).await;
        let error = client.page(&window(), None).await.unwrap_err();
        assert_eq!(client.requests(), RequestCounts::default());
        texts.push(rendered(&error).replace(&server.url, "http://server"));
    }
    insta::assert_snapshot!(texts.join("\n\n"), @"
        denied AccessDenied: could not assume `arn:aws:iam::111122223333:role/billing` to read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: AWS answered `AccessDenied`: User: arn:aws:iam::444455556666:user/a is not authorized to perform: sts:AssumeRole on resource: arn:aws:iam::111122223333:role/billing
        hint: let the trust policy of `arn:aws:iam::111122223333:role/billing` name the caller and the same external id, and allow the caller `sts:AssumeRole` on it

        denied ExpiredToken: could not assume `arn:aws:iam::111122223333:role/billing` to read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: AWS answered `ExpiredToken`: The security token included in the request is expired
        hint: renew the temporary credentials the environment gives this process (`AWS_SESSION_TOKEN` or the mounted file)

        invalid ValidationError: could not assume `arn:aws:iam::111122223333:role/billing` to read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: AWS answered `ValidationError`: 1 validation error detected
        hint: correct `role_arn`, `external_id` or `session_name`: STS does not take them

        unavailable -: could not assume `arn:aws:iam::111122223333:role/billing` to read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: the answer was HTTP 503
        hint: nothing to do: the trouble is AWS's, and the next poll asks again
        ");
}

#[tokio::test]
async fn an_sts_that_does_not_answer_is_given_up() {
    let server = Server::start([Answer::Silent]).await;
    let client = role_client(&role(&server.url, None), SHORT).await;
    let error = client.page(&window(), None).await.unwrap_err();
    insta::assert_snapshot!(rendered(&error), @"
        unavailable -: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: no credentials came: identity resolver timed out after 250ms
        hint: check what the credentials come from: STS, the instance's metadata service or a `credential_process` did not answer in time
        ");
    assert_eq!(client.requests(), RequestCounts::default());
}

#[tokio::test]
async fn a_profile_that_does_not_exist() {
    let mut connection = connection("http://127.0.0.1:9");
    connection.credentials = CredentialsConfig::Profile { profile: "no-such-profile".to_owned() };
    let client = client(&connection).await;
    let direct = client.page(&window(), None).await.unwrap_err();
    assert_eq!(client.requests(), RequestCounts::default());
    let base = self::client(&role("http://127.0.0.1:9", Some("no-such-profile"))).await;
    let base = base.page(&window(), None).await.unwrap_err();
    // Whether there are other profiles depends on the machine.
    insta::with_settings!({filters => vec![("no AWS credentials.*", "no AWS credentials[: why]")]}, {
        insta::assert_snapshot!(rendered(&direct), @r#"
denied -: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: no AWS credentials[: why]
hint: check the profile `no-such-profile` in `~/.aws/config` and `~/.aws/credentials` (or `AWS_CONFIG_FILE`) of the user this runs as; a session of IAM Identity Center (SSO) is renewed with `aws sso login --profile no-such-profile`
"#);
        assert_eq!(rendered(&direct), rendered(&base));
    });
}

/// A chain that looked everywhere and found nothing.
#[derive(Debug)]
struct Nothing;

impl ProvideCredentials for Nothing {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let error = CredentialsError::not_loaded("no providers in chain provided credentials");
        future::ProvideCredentials::ready(Err(error))
    }
}

#[tokio::test]
async fn no_credentials_at_all() {
    let mut texts = Vec::new();
    let mut plain = connection("http://127.0.0.1:9");
    plain.credentials = CredentialsConfig::Default;
    for connection in [plain, role("http://127.0.0.1:9", None)] {
        let nothing = SharedCredentialsProvider::new(Nothing);
        let client =
            CostExplorer::with(&connection, &http_client(), Clock::system(), PATIENT, Some(nothing)).await;
        texts.push(rendered(&client.page(&window(), None).await.unwrap_err()));
        assert_eq!(client.requests(), RequestCounts::default());
    }
    insta::assert_snapshot!(texts.join("\n\n"), @"
        denied -: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: no AWS credentials: no providers in chain provided credentials
        hint: tried, in this order: environment variables, the profile, a web identity token, the container's role, the instance's role: provide one of them, or configure `credentials`

        denied -: could not read daily costs from 2026-03-01 to 2026-03-16 for connection `main`: no AWS credentials: no providers in chain provided credentials
        hint: tried, in this order: environment variables, the profile, a web identity token, the container's role, the instance's role: provide one of them, or configure `credentials`
        ");
}
