//go:build tools

// Names the command that is built from this module beside its own, so that
// `go mod tidy` records the sums of everything it imports.
package main

import _ "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"
