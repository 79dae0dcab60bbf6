{{- /* What a NetworkPolicy has to let through, as far as values say it. */ -}}

{{- /* Never the metadata addresses, where a node's own credentials are. */ -}}
{{- define "tendril-runner.everywhere" -}}
- ipBlock:
    cidr: 0.0.0.0/0
    except: [169.254.0.0/16]
- ipBlock:
    cidr: ::/0
    except: [fd00:ec2::/32]
{{- end }}

{{- /* The port of an http URL. */ -}}
{{- define "tendril-runner.portOf" -}}
{{- $host := regexReplaceAll "[/?].*$" (regexReplaceAll "^[a-z]+://" . "") "" -}}
{{- regexFind ":[0-9]+$" $host | trimPrefix ":" | default (ternary 443 80 (hasPrefix "https:" .)) -}}
{{- end }}

{{- /* Ports beside 53 and 443, as JSON: of what the runner itself asks, and of what jobs may. */ -}}
{{- define "tendril-runner.morePorts" -}}
{{- $v := .Values -}}
{{- $egress := $v.settings.egress -}}
{{- $ports := list -}}
{{- range compact (list $v.proxy.httpProxy $v.proxy.httpsProxy $egress.upstream $v.settings.infracost.pricing_endpoint (dig "address" "" ($v.settings.secrets.vault | default dict))) -}}
{{- $ports = append $ports (include "tendril-runner.portOf" . | int64) -}}
{{- end -}}
{{- if $v.gitCredentials.sshKeyKey -}}{{- $ports = append $ports 22 -}}{{- end -}}
{{- if eq $egress.mode "enforce" -}}
{{- range $egress.direct_ports -}}{{- $ports = append $ports (int64 .) -}}{{- end -}}
{{- range $egress.allow -}}
{{- with regexFind "(^[^:]*|\\][^:]*):[0-9]+$" . -}}{{- $ports = append $ports (splitList ":" . | last | int64) -}}{{- end -}}
{{- end -}}
{{- else if kindIs "slice" $v.settings.sandbox.connect -}}
{{- range $v.settings.sandbox.connect -}}{{- $ports = append $ports (int64 .) -}}{{- end -}}
{{- end -}}
{{- $texts := list -}}
{{- range $ports -}}{{- $texts = append $texts (toString .) -}}{{- end -}}
{{- without ($texts | uniq | sortAlpha) "53" "443" | toJson -}}
{{- end }}
