//go:build tools

// Names the command that is built from this module, so that `go mod tidy`
// records the sums of everything it imports.
package tools

import _ "sigs.k8s.io/cri-tools/cmd/crictl"
