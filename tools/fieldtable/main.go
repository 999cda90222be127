// Prints the fields and types of kubeadm's, the kubelet's and kube-proxy's configuration documents as JSON, from the Go
// types of one Kubernetes release. kprov's tables in src/cluster/tables are its output, one a minor version.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"runtime/debug"
	"strings"

	proxy "k8s.io/kube-proxy/config/v1alpha1"
	kubelet "k8s.io/kubelet/config/v1beta1"
	kubeadm "k8s.io/kubernetes/cmd/kubeadm/app/apis/kubeadm/v1beta4"
)

// Types that read themselves: what kind of JSON value each takes.
var scalars = map[string]string{
	"k8s.io/apimachinery/pkg/apis/meta/v1.Duration":                                 "duration",
	"k8s.io/apimachinery/pkg/apis/meta/v1.Time":                                     "time",
	"k8s.io/apimachinery/pkg/api/resource.Quantity":                                 "quantity",
	"k8s.io/apimachinery/pkg/api/resource.QuantityValue":                            "quantity",
	"k8s.io/apimachinery/pkg/util/intstr.IntOrString":                               "int-or-string",
	"k8s.io/kubernetes/cmd/kubeadm/app/apis/bootstraptoken/v1.BootstrapTokenString": "string",
	"k8s.io/component-base/logs/api/v1.TimeOrMetaDuration":                          "duration-or-int",
}

var unmarshaler = reflect.TypeFor[json.Unmarshaler]()

type table struct {
	Kubernetes string `json:"kubernetes"`
	// Fields of each struct by the struct's name; the documents are named by their kind.
	Types map[string]map[string]string `json:"types"`
	// What an empty document is written as: fields that are never left out, with their zero values.
	Empty map[string]any `json:"empty"`

	seen map[string]reflect.Type
}

func (t *table) name(typ reflect.Type) string {
	if scalar, ok := scalars[typ.PkgPath()+"."+typ.Name()]; ok {
		return scalar
	}
	if typ.Kind() != reflect.Pointer && reflect.PointerTo(typ).Implements(unmarshaler) {
		panic(fmt.Sprintf("%s.%s reads itself: say in scalars what it takes", typ.PkgPath(), typ.Name()))
	}
	switch typ.Kind() {
	case reflect.Pointer:
		return t.name(typ.Elem())
	case reflect.Slice:
		if typ.Elem().Kind() == reflect.Uint8 {
			return "string"
		}
		return "[]" + t.name(typ.Elem())
	case reflect.Map:
		return "map:" + t.name(typ.Elem())
	case reflect.Struct:
		t.add(typ)
		return typ.Name()
	case reflect.Interface:
		return "any"
	default:
		return typ.Kind().String()
	}
}

func (t *table) add(typ reflect.Type) {
	if known, ok := t.seen[typ.Name()]; ok {
		if known != typ {
			panic(fmt.Sprintf("two types are named %s: %s and %s", typ.Name(), known.PkgPath(), typ.PkgPath()))
		}
		return
	}
	t.seen[typ.Name()] = typ
	fields := map[string]string{}
	t.Types[typ.Name()] = fields
	t.fields(typ, fields)
}

func (t *table) fields(typ reflect.Type, into map[string]string) {
	for i := range typ.NumField() {
		field := typ.Field(i)
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		switch {
		case name == "-":
		case name == "" && (field.Anonymous || strings.Contains(options, "inline")):
			embedded := field.Type
			if embedded.Kind() == reflect.Pointer {
				embedded = embedded.Elem()
			}
			t.fields(embedded, into)
		case name == "":
			panic(fmt.Sprintf("%s.%s has no JSON name", typ.Name(), field.Name))
		default:
			into[name] = t.name(field.Type)
		}
	}
}

func main() {
	result := table{Types: map[string]map[string]string{}, Empty: map[string]any{}, seen: map[string]reflect.Type{}}
	info, _ := debug.ReadBuildInfo()
	for _, module := range info.Deps {
		if module.Path == "k8s.io/kubernetes" {
			result.Kubernetes = module.Version
		}
	}
	for _, document := range []any{
		kubeadm.InitConfiguration{}, kubeadm.ClusterConfiguration{}, kubeadm.JoinConfiguration{},
		kubeadm.ResetConfiguration{}, kubeadm.UpgradeConfiguration{},
		kubelet.KubeletConfiguration{}, proxy.KubeProxyConfiguration{},
	} {
		result.add(reflect.TypeOf(document))
	}
	for _, document := range []any{kubelet.KubeletConfiguration{}, proxy.KubeProxyConfiguration{}} {
		result.Empty[reflect.TypeOf(document).Name()] = document
	}
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", " ")
	if err := out.Encode(result); err != nil {
		panic(err)
	}
}
