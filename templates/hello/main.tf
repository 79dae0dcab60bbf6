# One resource that every Terraform and OpenTofu has built in, so this applies anywhere.

terraform {
  required_version = ">= 1.4.0"
}

resource "terraform_data" "greeting" {
  input = "Hello, ${var.name}!"

  # Another deployment, or other words, is another greeting.
  triggers_replace = {
    deployment = var.deployment_id
    name       = var.name
    lines      = var.lines
    seconds    = var.seconds
  }

  provisioner "local-exec" {
    # The values come through the environment, so the shell reads none of them as code.
    command = <<-EOT
      line=1
      while [ "$line" -le "$LINES_TO_PRINT" ]; do
        printf 'line %s of %s: Hello, %s!\n' "$line" "$LINES_TO_PRINT" "$GREETED"
        sleep "$PAUSE_SECONDS"
        line=$((line + 1))
      done
    EOT

    environment = {
      GREETED        = var.name
      LINES_TO_PRINT = var.lines
      PAUSE_SECONDS  = format("%.3f", var.seconds / var.lines)
    }
  }
}

resource "terraform_data" "secret" {
  input = sensitive(sha256("${var.name} ${var.passphrase}"))
}
