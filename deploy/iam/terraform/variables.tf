variable "name" {
  description = "Name of the policy and of the user or role."
  type        = string
  default     = "amazon-billing-source"
}

variable "trusted_principal_arn" {
  description = "Who may assume the role, such as the role of the host that runs the source. Null: a user is made instead."
  type        = string
  default     = null
}

variable "external_id" {
  description = "What the caller must show to assume the role; at least 16 characters, random."
  type        = string
  default     = null
  sensitive   = true

  validation {
    condition     = var.external_id == null ? true : length(var.external_id) >= 16
    error_message = "external_id needs at least 16 characters."
  }
}

variable "create_access_key" {
  description = "With a user: also create an access key. Its secret is then in the Terraform state."
  type        = bool
  default     = false
}

variable "tags" {
  description = "Tags of everything made here."
  type        = map(string)
  default     = {}
}
