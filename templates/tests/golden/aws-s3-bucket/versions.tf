terraform {
  required_version = ">= 1.4.0"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0, < 7.0"
    }
  }
}

provider "aws" {
  region = var.region

  default_tags {
    tags = merge(
      { for tag in var.tags : tag.key => tag.value },
      { "tendril:deployment" = var.deployment_id },
    )
  }
}
