output "greeting" {
  description = "The greeting that was kept."
  value       = terraform_data.greeting.output
}

output "lines" {
  description = "How many lines were printed."
  value       = var.lines
}

output "fingerprint" {
  description = "Fingerprint of name and passphrase; sensitive, so it is masked."
  value       = terraform_data.secret.output
  sensitive   = true
}
