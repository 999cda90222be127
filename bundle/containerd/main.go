// containerd and ctr in one file: called by any other name than containerd it is
// ctr, which kprov also calls where an unpacked bundle lies, by its hash. They
// share nearly all of their code.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	_ "github.com/containerd/containerd/v2/cmd/containerd/builtins"
	containerd "github.com/containerd/containerd/v2/cmd/containerd/command"
	ctr "github.com/containerd/containerd/v2/cmd/ctr/app"
)

func main() {
	name, app := "ctr", ctr.New
	if filepath.Base(os.Args[0]) == "containerd" {
		name, app = "containerd", containerd.App
	}
	if err := app().Run(os.Args); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %s\n", name, err)
		os.Exit(1)
	}
}
