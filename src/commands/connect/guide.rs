//! What to do in the AWS console where rights are missing: the short form of the README's section
//! "Create the user in AWS", which it must agree with.

/// The only right the source needs; `amazon-billing-source policy` prints it, too.
pub(crate) const POLICY: &str = include_str!("../../../deploy/iam/policy.json");

/// From an account to an access key.
pub(super) const STEPS: &str = "\
In the AWS console, in the account whose costs you want (the management account shows the whole organisation):

  1. As the root user, once: Account > IAM user and role access to Billing information > Edit >
     Activate IAM Access.
  2. Once: open Billing and Cost Management > Cost Explorer. It shows data after about 24 hours.
  3. IAM > Policies > Create policy > JSON: put in the policy below, name it `amazon-billing-source`.
  4. IAM > Users > Create user: name `amazon-billing-source`, no console access;
     Attach policies directly: `amazon-billing-source`.
  5. The user > Security credentials > Create access key > Application running outside AWS.
     Copy both values: the secret is shown this once.
";

/// From credentials without the right to credentials with it.
pub(super) const ATTACH: &str = "\
In the AWS console, in the account of these credentials:

  1. IAM > Policies > Create policy > JSON: put in the policy below, name it `amazon-billing-source`.
  2. IAM > Users (or Roles), the one of these credentials > Add permissions > Attach policies directly:
     `amazon-billing-source`.
  3. If Cost Explorer was never opened here: open Billing and Cost Management > Cost Explorer once, and
     wait about 24 hours.
";

#[cfg(test)]
mod tests {
    use super::*;

    /// Who reads one after the other must find the same names.
    #[test]
    fn the_readme_has_every_name_of_the_console() {
        let readme = include_str!("../../../README.md").replace("**", "").replace('→', ">");
        for name in [
            "IAM user and role access to Billing information",
            "Activate IAM Access",
            "Billing and Cost Management > Cost Explorer",
            "IAM > Policies > Create policy",
            "IAM > Users > Create user",
            "Attach policies directly",
            "Security credentials",
            "Create access key",
            "Application running outside AWS",
            "`amazon-billing-source`",
        ] {
            assert!(readme.contains(name), "README: {name}");
            let words = name.rsplit(" > ").next().unwrap_or(name);
            assert!(STEPS.contains(words), "steps: {words}");
        }
        let preferences = "Billing and Cost Management > Cost Management preferences";
        assert!(readme.contains(preferences));
        assert!(include_str!("../../poller/hints.rs").contains(preferences), "the hint on hourly figures");
        let indented: Vec<_> = POLICY.lines().map(|line| format!("   {line}")).collect();
        assert!(readme.contains(&indented.join("\n")), "the policy");
    }
}
