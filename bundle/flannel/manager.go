package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/flannel-io/flannel/pkg/lease"
	"github.com/flannel-io/flannel/pkg/subnet"
	"github.com/flannel-io/flannel/pkg/subnet/kube"
	log "k8s.io/klog/v2"
)

// Upstream's subnet manager looks once a second whether it knows all nodes, and
// gives this node its subnet only then: every node would be Ready up to a second
// later than it can be. So there are two of them. The one that is embedded does
// not ask for other nodes (upstream's back-end "alloc" needs none) and does all
// that concerns this node. The other one, made meanwhile, tells of the others.
type manager struct {
	subnet.Manager
	config *subnet.Config
	others chan subnet.Manager
}

func newManager(ctx context.Context, o options) (*manager, error) {
	text, err := os.ReadFile(o.netConf)
	if err != nil {
		return nil, err
	}
	config, err := subnet.ParseConfig(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.netConf, err)
	}
	alone, err := withoutOthers(text, filepath.Dir(o.subnetFile))
	if err != nil {
		return nil, err
	}
	defer os.Remove(alone)
	create := func(path string) (subnet.Manager, error) {
		return kube.NewSubnetManager(ctx, o.kubeAPI, o.kubeconfig, "flannel.alpha.coreos.com", path, true)
	}
	own, err := create(alone)
	if err != nil {
		return nil, err
	}
	m := &manager{Manager: own, config: config, others: make(chan subnet.Manager, 1)}
	go func() {
		others, err := create(o.netConf)
		if err != nil {
			if ctx.Err() == nil {
				// The kubelet starts the container again.
				log.Errorf("watching other nodes: %v", err)
				log.Flush()
				os.Exit(1)
			}
			return
		}
		m.others <- others
	}()
	return m, nil
}

// The same configuration with the back-end that needs no other nodes, in a file
// of its own in dir.
func withoutOthers(text []byte, dir string) (string, error) {
	config := map[string]any{}
	if err := json.Unmarshal(text, &config); err != nil {
		return "", err
	}
	config["Backend"] = map[string]string{"Type": "alloc"}
	text, err := json.Marshal(config)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	file, err := os.CreateTemp(dir, ".net-conf-")
	if err != nil {
		return "", err
	}
	defer file.Close()
	_, err = file.Write(text)
	return file.Name(), err
}

// A node that has only just registered may have no addresses for pods yet.
func (m *manager) AcquireLease(ctx context.Context, attrs *lease.LeaseAttrs) (*lease.Lease, error) {
	end := time.Now().Add(time.Minute)
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		own, err := m.Manager.AcquireLease(ctx, attrs)
		if err == nil || ctx.Err() != nil || time.Now().After(end) {
			return own, err
		}
		log.Infof("no subnet yet: %v", err)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

func (m *manager) GetNetworkConfig(context.Context) (*subnet.Config, error) {
	return m.config, nil
}

func (m *manager) WatchLeases(ctx context.Context, receiver chan []lease.LeaseWatchResult) error {
	select {
	case others := <-m.others:
		return others.WatchLeases(ctx, receiver)
	case <-ctx.Done():
		close(receiver)
		return ctx.Err()
	}
}
