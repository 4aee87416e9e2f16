# Amazon Billing Source: the identity that reads cost figures, and nothing else.
#
# Apply it in the account whose costs are to be read: the management account for a whole
# organisation.
#
#   terraform init
#   terraform apply -var trusted_principal_arn=arn:aws:iam::444455556666:role/host \
#                   -var external_id=<at least 16 random characters>
#
# Without a trusted principal a user is made instead of a role. Its access key is created only with
# `create_access_key = true`, because Terraform then keeps the secret in its state file: use an
# encrypted backend, or create the key by hand (`aws iam create-access-key`).

terraform {
  required_version = ">= 1.5"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

locals {
  is_role = var.trusted_principal_arn != null
}

# One source of truth: the file the product documents. sts:GetCallerIdentity needs no permission.
resource "aws_iam_policy" "this" {
  name        = var.name
  description = "Read cost and usage figures from Cost Explorer"
  policy      = file("${path.module}/../policy.json")
  tags        = var.tags
}

data "aws_iam_policy_document" "trust" {
  count = local.is_role ? 1 : 0

  statement {
    sid     = "LetTheBillingSourceIn"
    actions = ["sts:AssumeRole"]

    principals {
      type        = "AWS"
      identifiers = [var.trusted_principal_arn]
    }

    condition {
      test     = "StringEquals"
      variable = "sts:ExternalId"
      values   = [var.external_id]
    }
  }

  lifecycle {
    precondition {
      condition     = var.external_id != null
      error_message = "A role needs external_id."
    }
  }
}

resource "aws_iam_role" "this" {
  count = local.is_role ? 1 : 0

  name                 = var.name
  description          = "Assumed by the Amazon Billing Source"
  max_session_duration = 3600
  assume_role_policy   = data.aws_iam_policy_document.trust[0].json
  tags                 = var.tags
}

resource "aws_iam_role_policy_attachment" "this" {
  count = local.is_role ? 1 : 0

  role       = aws_iam_role.this[0].name
  policy_arn = aws_iam_policy.this.arn
}

resource "aws_iam_user" "this" {
  count = local.is_role ? 0 : 1

  name = var.name
  tags = var.tags
}

resource "aws_iam_user_policy_attachment" "this" {
  count = local.is_role ? 0 : 1

  user       = aws_iam_user.this[0].name
  policy_arn = aws_iam_policy.this.arn
}

resource "aws_iam_access_key" "this" {
  count = !local.is_role && var.create_access_key ? 1 : 0

  user = aws_iam_user.this[0].name
}
