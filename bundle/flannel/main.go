// The pod network's daemon: flannel's packages under a main of our own, because
// upstream's does not resolve from the module proxy alone. Back-ends: vxlan and
// host-gw. It also does two things for which upstream needs init containers and
// a CNI plugin: with --install-cni it puts absent CNI plugins on the host, and it
// writes the CNI configuration itself. The kubelet looks at pods once a second:
// an init container would cost that and its own start before a node is Ready.
//
// The order of what happens follows upstream's main.go (Apache-2.0).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"github.com/flannel-io/flannel/pkg/version"
	log "k8s.io/klog/v2"
)

type options struct {
	kubeAPI     string
	kubeconfig  string
	netConf     string
	subnetFile  string
	cniConf     string
	installCNI  string
	waitFor     string
	publicIP    string
	publicIPv6  string
	ifaces      list
	ifaceRegex  list
	canReach    string
	ipMasq      bool
	healthzIP   string
	healthzPort int
	resync      int
}

type list []string

func (l *list) String() string { return strings.Join(*l, ",") }

func (l *list) Set(value string) error {
	*l = append(*l, value)
	return nil
}

func main() {
	// `--version` answers before any flag is looked at, for `docker run` and tests.
	if len(os.Args) == 2 && (os.Args[1] == "--version" || os.Args[1] == "-version") {
		fmt.Println(version.Version)
		return
	}
	opts := parse(os.Args[1:])
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, opts); err != nil && !errors.Is(err, context.Canceled) {
		log.Error(err)
		log.Flush()
		os.Exit(1)
	}
}

func parse(args []string) options {
	var o options
	klog := flag.NewFlagSet("klog", flag.ExitOnError)
	log.InitFlags(klog)
	f := flag.NewFlagSet("flanneld", flag.ExitOnError)
	f.StringVar(&o.kubeAPI, "kube-api-url", "", "API server; not needed in a pod")
	f.StringVar(&o.kubeconfig, "kubeconfig-file", "", "kubeconfig; not needed in a pod")
	f.StringVar(&o.netConf, "net-config-path", "/etc/kube-flannel/net-conf.json", "network configuration")
	f.StringVar(&o.subnetFile, "subnet-file", "/run/flannel/subnet.env", "where this node's subnet and MTU are written")
	f.StringVar(&o.cniConf, "cni-conf", "/etc/cni/net.d/10-flannel.conflist", "CNI configuration that is written; empty: none")
	f.StringVar(&o.installCNI, "install-cni", "", "directory into which the image's CNI plugins are put where they are absent; empty: none")
	f.StringVar(&o.waitFor, "wait-for", "", "address and port that must answer before the CNI configuration is written, for a minute at most")
	f.StringVar(&o.publicIP, "public-ip", "", "IPv4 address by which other nodes reach this one")
	f.StringVar(&o.publicIPv6, "public-ipv6", "", "IPv6 address by which other nodes reach this one")
	f.Var(&o.ifaces, "iface", "interface (name or address) between the nodes; several: the first that exists")
	f.Var(&o.ifaceRegex, "iface-regex", "the same by pattern, tried after --iface")
	f.StringVar(&o.canReach, "iface-can-reach", "", "the interface that the route to this address uses")
	f.BoolVar(&o.ipMasq, "ip-masq", false, "masquerade traffic from pods to outside of the pod network")
	f.StringVar(&o.healthzIP, "healthz-ip", "127.0.0.1", "address of /healthz")
	f.IntVar(&o.healthzPort, "healthz-port", 0, "port of /healthz; 0: none")
	f.IntVar(&o.resync, "resync-seconds", 5, "how often packet filter rules are looked at")
	f.Var(klog.Lookup("v").Value, "v", "log level")
	_ = f.Parse(args)
	if f.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "flanneld: unexpected argument %q\n", f.Arg(0))
		os.Exit(2)
	}
	return o
}

func run(ctx context.Context, o options) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()

	if o.installCNI != "" {
		if err := installCNI(o.installCNI); err != nil {
			return fmt.Errorf("putting CNI plugins into %s: %w", o.installCNI, err)
		}
	}
	sm, err := newManager(ctx, o)
	if err != nil {
		return fmt.Errorf("reading this node's subnet from the API: %w", err)
	}
	if o.healthzPort > 0 {
		serveHealthz(ctx, &wg, o.healthzIP, o.healthzPort)
	}
	return runNetwork(ctx, &wg, sm, o)
}
