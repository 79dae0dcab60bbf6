variable "region" {
  description = "AWS region of the bucket."
  type        = string
}

variable "bucket_name" {
  description = "Name of the bucket, unique in all of AWS."
  type        = string
}

variable "kms_key_arn" {
  description = "Key that encrypts the objects. Without one, S3 manages the keys (SSE-S3)."
  type        = string
  default     = null
}

variable "noncurrent_days" {
  description = "After how many days an overwritten or deleted version is removed for good."
  type        = number
}

variable "force_destroy" {
  description = "Whether a destroy may remove a bucket that still holds objects."
  type        = bool
}

variable "tags" {
  description = "Tags for everything that is made."
  type        = list(object({ key = string, value = string }))
}

variable "deployment_id" {
  description = "The deployment that this runs for; becomes a tag."
  type        = string
}
