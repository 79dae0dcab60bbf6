variable "name" {
  description = "Who is greeted."
  type        = string
}

variable "lines" {
  description = "How many lines the apply prints."
  type        = number
}

variable "seconds" {
  description = "How long the apply takes to print them, about."
  type        = number
}

variable "passphrase" {
  description = "Kept in the state as a sensitive value."
  type        = string
  default     = ""
  sensitive   = true
}

variable "deployment_id" {
  description = "The deployment that this runs for."
  type        = string
}
