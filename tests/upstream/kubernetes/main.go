// Upstream's control plane in one program, as the peer of benchmarks. The first argument says which part of it this
// process is; `serve` starts the parts that are asked for.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	manager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
)

var parts = map[string]func() *cobra.Command{
	"kube-apiserver":          apiserver.NewAPIServerCommand,
	"kube-controller-manager": manager.NewControllerManagerCommand,
	"kube-scheduler":          func() *cobra.Command { return scheduler.NewSchedulerCommand() },
}

func main() {
	if len(os.Args) > 1 && parts[os.Args[1]] != nil {
		os.Args = os.Args[1:]
		os.Exit(cli.Run(parts[os.Args[0]]()))
	}
	if err := started(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func started(arguments []string) error {
	isWhole := len(arguments) == 4 && arguments[3] == "whole"
	if !isWhole && len(arguments) != 3 || arguments[0] != "serve" {
		return errors.New("usage: kubernetes serve FOLDER PORT [whole], or the name of a part with its flags")
	}
	return serve(arguments[1], arguments[2], isWhole)
}
