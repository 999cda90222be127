package main

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/subnet"
	log "k8s.io/klog/v2"
)

// Where the plugins are in this image.
const ownPlugins = "/opt/cni/bin"

// installCNI copies the image's CNI plugins to the host, only those that are
// absent there: a node that was joined by kubeadm may have none or its own.
func installCNI(to string) error {
	plugins, err := os.ReadDir(ownPlugins)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	for _, plugin := range plugins {
		target := filepath.Join(to, plugin.Name())
		if _, err := os.Stat(target); err == nil {
			continue
		}
		if err := copyFile(filepath.Join(ownPlugins, plugin.Name()), target); err != nil {
			return err
		}
		log.Infof("installed %s", target)
	}
	return nil
}

// Copied under another name first: nobody ever runs half a plugin.
func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	return atomically(to, 0o755, func(out io.Writer) error {
		_, err := io.Copy(out, in)
		return err
	})
}

func atomically(path string, mode os.FileMode, write func(io.Writer) error) error {
	out, err := os.CreateTemp(filepath.Dir(path), ".kprov-")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	if err := write(out); err != nil {
		return err
	}
	if err := out.Chmod(mode); err != nil {
		return err
	}
	if err := out.Sync(); err != nil {
		return err
	}
	return os.Rename(out.Name(), path)
}

type object map[string]any

// writeConflist says to the container runtime what upstream's flannel plugin
// would delegate to: a bridge, addresses from this node's subnet, host ports.
// portmap finds out by itself whether the host has iptables or nft.
func writeConflist(path string, config *subnet.Config, v4 ip.IP4Net, v6 ip.IP6Net, mtu int) error {
	var ranges [][]object
	var routes []object
	if config.EnableIPv4 {
		ranges = append(ranges, []object{{"subnet": v4.Network().String()}})
		routes = append(routes, object{"dst": config.Network.String()})
	}
	if config.EnableIPv6 {
		ranges = append(ranges, []object{{"subnet": v6.Network().String()}})
		routes = append(routes, object{"dst": config.IPv6Network.String()})
	}
	conflist := object{
		"name":       "cbr0",
		"cniVersion": "1.0.0",
		"plugins": []object{
			{
				"type":             "bridge",
				"bridge":           "cni0",
				"mtu":              mtu,
				"isGateway":        true,
				"isDefaultGateway": true,
				// The node's subnet can change (Node deleted and joined again)
				// while the bridge outlives it.
				"forceAddress": !(config.EnableIPv4 && config.EnableIPv6),
				"hairpinMode":  true,
				"ipMasq":       false,
				"ipam": object{
					"type":   "host-local",
					"ranges": ranges,
					"routes": routes,
				},
			},
			{"type": "portmap", "capabilities": object{"portMappings": true}},
		},
	}
	text, err := json.MarshalIndent(conflist, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return atomically(path, 0o644, func(out io.Writer) error {
		_, err := out.Write(append(text, '\n'))
		return err
	})
}

func readSubnetFile(path string) subnetFile {
	values := subnetFile{}
	in, err := os.Open(path)
	if err != nil {
		return values
	}
	defer in.Close()
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		if key, value, ok := strings.Cut(lines.Text(), "="); ok {
			// Several networks are separated by commas; upstream uses one too.
			first, _, _ := strings.Cut(value, ",")
			values[key] = first
		}
	}
	return values
}
