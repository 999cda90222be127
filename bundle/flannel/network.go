package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/flannel-io/flannel/pkg/backend"
	_ "github.com/flannel-io/flannel/pkg/backend/hostgw"
	_ "github.com/flannel-io/flannel/pkg/backend/vxlan"
	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/ipmatch"
	"github.com/flannel-io/flannel/pkg/subnet"
	"github.com/flannel-io/flannel/pkg/trafficmngr"
	"github.com/flannel-io/flannel/pkg/trafficmngr/iptables"
	"github.com/flannel-io/flannel/pkg/trafficmngr/nftables"
	log "k8s.io/klog/v2"
)

func runNetwork(ctx context.Context, wg *sync.WaitGroup, sm subnet.Manager, o options) error {
	config, err := sm.GetNetworkConfig(ctx)
	if err != nil {
		return fmt.Errorf("reading the network configuration: %w", err)
	}
	if err := bridgeFilter(config); err != nil {
		return err
	}
	iface, err := externalInterface(ctx, sm, config, o)
	if err != nil {
		return err
	}
	be, err := backend.NewManager(ctx, sm, iface).GetBackend(config.BackendType)
	if err != nil {
		return fmt.Errorf("back-end %s (this image has vxlan and host-gw): %w", config.BackendType, err)
	}
	nw, err := be.RegisterNetwork(ctx, wg, config)
	if err != nil {
		return fmt.Errorf("registering the network: %w", err)
	}

	// A restart may have changed the kind of rules: the other kind's are taken
	// away. That the kernel lacks the other kind altogether is no error.
	if err := rules(!config.EnableNFTables).CleanUp(ctx); err != nil {
		log.Infof("no rules of the other kind to take away: %v", err)
	}
	tm := rules(config.EnableNFTables)
	if err := tm.Init(ctx); err != nil {
		return fmt.Errorf("packet filter: %w", err)
	}
	lease := nw.Lease()
	if o.ipMasq {
		before := readSubnetFile(o.subnetFile)
		err := tm.SetupAndEnsureMasqRules(ctx,
			config.Network, before.ip4("FLANNEL_SUBNET"), before.ip4("FLANNEL_NETWORK"),
			config.IPv6Network, before.ip6("FLANNEL_IPV6_SUBNET"), before.ip6("FLANNEL_IPV6_NETWORK"),
			lease, o.resync, false)
		if err != nil {
			return fmt.Errorf("masquerading: %w", err)
		}
	}
	tm.SetupAndEnsureForwardRules(ctx, config.Network, config.IPv6Network, o.resync)

	if err := sm.HandleSubnetFile(o.subnetFile, config, o.ipMasq, lease.Subnet, lease.IPv6Subnet, nw.MTU()); err != nil {
		return fmt.Errorf("writing %s: %w", o.subnetFile, err)
	}
	if o.cniConf != "" {
		waitFor(ctx, o.waitFor)
		if err := writeConflist(o.cniConf, config, lease.Subnet, lease.IPv6Subnet, nw.MTU()); err != nil {
			return err
		}
		log.Infof("wrote %s", o.cniConf)
	}

	ended := make(chan struct{})
	go func() {
		defer close(ended)
		nw.Run(ctx)
	}()
	// With the kube subnet manager this only marks the node and returns.
	if err := sm.CompleteLease(ctx, lease, wg); err != nil {
		return err
	}
	<-ended
	if ctx.Err() == nil {
		return errors.New("the back-end stopped watching for other nodes")
	}
	return nil
}

// With the CNI configuration the node becomes ready and its pods start. A pod
// that asks the API by its Service before kube-proxy has set that up (CoreDNS
// does) gives up, and tries again only much later: so the Service goes first.
func waitFor(ctx context.Context, address string) {
	if address == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	dialer := net.Dialer{Timeout: 500 * time.Millisecond}
	for pause := 50 * time.Millisecond; ; pause = min(pause*3/2, 500*time.Millisecond) {
		conn, err := dialer.DialContext(ctx, "tcp", address)
		if err == nil {
			_ = conn.Close()
			return
		}
		select {
		case <-ctx.Done():
			log.Warningf("%s does not answer, pods start all the same: %v", address, err)
			return
		case <-time.After(pause):
		}
	}
}

func rules(nft bool) trafficmngr.TrafficManager {
	if nft {
		return &nftables.NFTablesManager{}
	}
	return &iptables.IPTablesManager{}
}

// Without br_netfilter, iptables rules do not see what crosses a bridge, and
// Services break in ways that are hard to find.
func bridgeFilter(config *subnet.Config) error {
	if config.EnableNFTables {
		return nil
	}
	if config.EnableIPv4 {
		if _, err := os.Stat("/proc/sys/net/bridge/bridge-nf-call-iptables"); err != nil {
			return fmt.Errorf("the kernel module br_netfilter is not loaded: %w", err)
		}
	}
	if config.EnableIPv6 {
		if _, err := os.Stat("/proc/sys/net/bridge/bridge-nf-call-ip6tables"); err != nil {
			return fmt.Errorf("the kernel module br_netfilter is not loaded: %w", err)
		}
	}
	return nil
}

func externalInterface(ctx context.Context, sm subnet.Manager, config *subnet.Config, o options) (*backend.ExternalInterface, error) {
	stack, err := ipmatch.GetIPFamily(config.EnableIPv4, config.EnableIPv6)
	if err != nil {
		return nil, err
	}
	public := ipmatch.PublicIPOpts{PublicIP: o.publicIP, PublicIPv6: o.publicIPv6}
	// Addresses that an administrator put on the Node win over flags.
	if v4, v6 := sm.GetStoredPublicIP(ctx); v4 != "" || v6 != "" {
		if v4 != "" {
			public.PublicIP = v4
		}
		if v6 != "" {
			public.PublicIPv6 = v6
		}
	}
	if len(o.ifaces) == 0 && len(o.ifaceRegex) == 0 && o.canReach == "" {
		first := public.PublicIP
		if first == "" {
			first = public.PublicIPv6
		}
		return ipmatch.LookupExtIface(first, "", "", stack, public)
	}
	var problems []error
	try := func(name, pattern, reach string) *backend.ExternalInterface {
		found, err := ipmatch.LookupExtIface(name, pattern, reach, stack, public)
		if err != nil {
			problems = append(problems, err)
			return nil
		}
		return found
	}
	for _, name := range o.ifaces {
		if found := try(name, "", ""); found != nil {
			return found, nil
		}
	}
	for _, pattern := range o.ifaceRegex {
		if found := try("", pattern, ""); found != nil {
			return found, nil
		}
	}
	if o.canReach != "" {
		if found := try("", "", o.canReach); found != nil {
			return found, nil
		}
	}
	return nil, fmt.Errorf("no interface matches: %w", errors.Join(problems...))
}

func serveHealthz(ctx context.Context, wg *sync.WaitGroup, host string, port int) {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("flanneld is running"))
	})
	server := &http.Server{
		Addr:              net.JoinHostPort(host, strconv.Itoa(port)),
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
	}
	wg.Add(1)
	go func() {
		defer wg.Done()
		go func() {
			<-ctx.Done()
			_ = server.Close()
		}()
		if err := server.ListenAndServe(); err != nil && !errors.Is(err, http.ErrServerClosed) {
			log.Errorf("healthz: %v", err)
		}
	}()
}

// What a former run wrote, so that rules for a subnet that is no longer ours go.
type subnetFile map[string]string

func (s subnetFile) ip4(key string) ip.IP4Net {
	if _, parsed, err := net.ParseCIDR(s[key]); err == nil && parsed.IP.To4() != nil {
		return ip.FromIPNet(parsed)
	}
	return ip.IP4Net{}
}

func (s subnetFile) ip6(key string) ip.IP6Net {
	if _, parsed, err := net.ParseCIDR(s[key]); err == nil && parsed.IP.To4() == nil {
		return ip.FromIP6Net(parsed)
	}
	return ip.IP6Net{IP: ip.FromIP6(net.IPv6zero)}
}
