output "role_arn" {
  description = "For `role_arn` in [connections.credentials]; null with a user."
  value       = one(aws_iam_role.this[*].arn)
}

output "user_arn" {
  description = "The user; null with a role."
  value       = one(aws_iam_user.this[*].arn)
}

output "access_key_id" {
  description = "For `access_key_id` in [connections.credentials]; null without a key."
  value       = one(aws_iam_access_key.this[*].id)
}

output "secret_access_key" {
  description = "For the file of `secret_access_key_file`; null without a key. Read it with `terraform output -raw secret_access_key`."
  value       = one(aws_iam_access_key.this[*].secret)
  sensitive   = true
}
