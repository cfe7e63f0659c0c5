package core

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	autoscalingapply "k8s.io/client-go/applyconfigurations/autoscaling/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/disk"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/openapi"
	"k8s.io/client-go/openapi/cached"
	"k8s.io/client-go/openapi3"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/scale"
	"k8s.io/client-go/util/retry"
	explain "k8s.io/kubectl/pkg/explain/v2"
	"k8s.io/utils/ptr"
)

func discoveryClient(t testing.TB) *discovery.DiscoveryClient {
	t.Helper()
	client, err := discovery.NewDiscoveryClientForConfig(config(t))
	must(t, err)
	return client
}

// TestDiscovery finds the same kinds in one document, in many, and in a cache on disk.
func TestDiscovery(t *testing.T) {
	names := func(client discovery.DiscoveryInterface) string {
		_, lists, err := client.ServerGroupsAndResources()
		must(t, err)
		var names []string
		for _, list := range lists {
			for _, resource := range list.APIResources {
				names = append(names, list.GroupVersion+"/"+resource.Name+"/"+strings.Join(resource.Verbs, ","))
			}
		}
		slices.Sort(names)
		return strings.Join(names, "\n")
	}
	aggregated := discoveryClient(t)
	groups, resources, failed, err := aggregated.GroupsAndMaybeResources()
	must(t, err)
	if resources == nil || len(failed) != 0 || len(groups.Groups) < 15 {
		t.Fatalf("not aggregated: %d groups, failed %v", len(groups.Groups), failed)
	}
	legacy := discoveryClient(t)
	legacy.UseLegacyDiscovery = true
	one := names(aggregated)
	want(t, "legacy discovery", names(legacy), one)
	onDisk, err := disk.NewCachedDiscoveryClientForConfig(config(t), t.TempDir(), t.TempDir(), time.Hour)
	must(t, err)
	want(t, "discovery on disk", names(onDisk), one)
	want(t, "discovery on disk, again", names(onDisk), one)
	if !onDisk.Fresh() {
		t.Error("the cache on disk is stale at once")
	}
	for _, wanted := range []string{"v1/pods/exec/create,get", "v1/pods/eviction/create", "apps/v1/deployments/scale/get,patch,update"} {
		if !strings.Contains(one, wanted) {
			t.Errorf("%s is not in discovery", wanted)
		}
	}
	preferred, err := aggregated.ServerPreferredNamespacedResources()
	must(t, err)
	if len(preferred) < 10 {
		t.Errorf("%d preferred groups", len(preferred))
	}
	version, err := aggregated.ServerVersion()
	must(t, err)
	want(t, "version", version.Major+"."+version.Minor, "1.36")
	live, err := aggregated.RESTClient().Get().AbsPath("/readyz").DoRaw(t.Context())
	must(t, err)
	want(t, "readyz", string(live), "ok")
}

// TestMapper turns words that people type into resources.
func TestMapper(t *testing.T) {
	kept := memory.NewMemCacheClient(discoveryClient(t))
	mapper := restmapper.NewShortcutExpander(restmapper.NewDeferredDiscoveryRESTMapper(kept), kept, nil)
	for word, wanted := range map[string]string{
		"po": "/v1, Resource=pods", "deploy": "apps/v1, Resource=deployments", "hpa": "autoscaling/v2, Resource=horizontalpodautoscalers",
		"crd": "apiextensions.k8s.io/v1, Resource=customresourcedefinitions", "pc": "scheduling.k8s.io/v1, Resource=priorityclasses",
		"ingress": "networking.k8s.io/v1, Resource=ingresses",
	} {
		found, err := mapper.ResourceFor(schema.GroupVersionResource{Resource: word})
		must(t, err)
		want(t, word, found.String(), wanted)
	}
	mapping, err := mapper.RESTMapping(schema.GroupKind{Group: "rbac.authorization.k8s.io", Kind: "ClusterRole"})
	must(t, err)
	want(t, "scope", mapping.Scope.Name(), "root")
}

// TestOpenAPI reads the descriptions of both versions.
func TestOpenAPI(t *testing.T) {
	client := discoveryClient(t)
	two, err := client.OpenAPISchema() // sent as protobuf
	must(t, err)
	found := false
	for _, definition := range two.GetDefinitions().GetAdditionalProperties() {
		found = found || definition.GetName() == "io.k8s.api.apps.v1.Deployment"
	}
	if !found {
		t.Error("no Deployment in OpenAPI v2")
	}
	paths, err := client.OpenAPIV3().Paths()
	must(t, err)
	for _, path := range []string{"api/v1", "apis/apps/v1", "apis/apiextensions.k8s.io/v1"} {
		if _, there := paths[path]; !there {
			t.Errorf("%s is not in OpenAPI v3", path)
		}
	}
	var root openapi3.Root = openapi3.NewRoot(openapi.NewClient(client.RESTClient()))
	apps, err := root.GVSpec(appsv1.SchemeGroupVersion)
	must(t, err)
	deployment := apps.Components.Schemas["io.k8s.api.apps.v1.Deployment"]
	if deployment == nil || deployment.Extensions["x-kubernetes-group-version-kind"] == nil {
		t.Errorf("Deployment in OpenAPI v3: %v", deployment)
	}
	if apps.Paths.Paths["/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"] == nil {
		t.Error("no path for the scale of Deployments in OpenAPI v3")
	}
}

// TestExplain prints every field of every kind in every version, as kubectl explain --recursive does.
func TestExplain(t *testing.T) {
	client := discoveryClient(t)
	_, lists, err := client.ServerGroupsAndResources()
	must(t, err)
	documents, explained := cached.NewClient(client.OpenAPIV3()), 0
	for _, list := range lists {
		version, err := schema.ParseGroupVersion(list.GroupVersion)
		must(t, err)
		for _, resource := range list.APIResources {
			if strings.Contains(resource.Name, "/") {
				continue
			}
			var out bytes.Buffer
			err := explain.PrintModelDescription(nil, &out, documents, version.WithResource(resource.Name), true, "plaintext")
			if err != nil {
				t.Errorf("%s in %s: %v", resource.Name, list.GroupVersion, err)
				continue
			}
			text := out.String()
			if !strings.Contains(text, "KIND:       "+resource.Kind+"\n") || !strings.Contains(text, "FIELDS:\n") {
				t.Errorf("%s in %s: %s", resource.Name, list.GroupVersion, text)
			}
			explained++
		}
	}
	if explained < 60 {
		t.Errorf("only %d kinds were explained", explained)
	}
}

// TestScale changes the number of replicas of kinds that a program need not know.
func TestScale(t *testing.T) {
	ns, ctx, clients := namespace(t), t.Context(), clients(t)
	labels := map[string]string{"app": "walk"}
	_, err := clients.AppsV1().Deployments(ns).Create(ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "d"},
		Spec: appsv1.DeploymentSpec{Replicas: ptr.To(int32(1)), Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template()}}, metav1.CreateOptions{})
	must(t, err)
	_, err = clients.CoreV1().ReplicationControllers(ns).Create(ctx, &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Name: "d"},
		Spec: corev1.ReplicationControllerSpec{Replicas: ptr.To(int32(1)), Selector: labels, Template: ptr.To(template())}}, metav1.CreateOptions{})
	must(t, err)
	kept := memory.NewMemCacheClient(discoveryClient(t))
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(kept)
	scales, err := scale.NewForConfig(config(t), mapper, dynamic.LegacyAPIPathResolverFunc, scale.NewDiscoveryScaleKindResolver(kept))
	must(t, err)
	for _, resource := range []schema.GroupResource{{Group: "apps", Resource: "deployments"}, {Resource: "replicationcontrollers"}} {
		got, err := scales.Scales(ns).Get(ctx, resource, "d", metav1.GetOptions{})
		must(t, err)
		want(t, "replicas", got.Spec.Replicas, 1)
		want(t, "selector", got.Status.Selector, "app=walk")
		must(t, retry.RetryOnConflict(retry.DefaultRetry, func() error { // the kind's controller writes as well
			got, err = scales.Scales(ns).Get(ctx, resource, "d", metav1.GetOptions{})
			must(t, err)
			got.Spec.Replicas = 2
			got, err = scales.Scales(ns).Update(ctx, resource, got, metav1.UpdateOptions{})
			return err
		}))
		want(t, "replicas after update", got.Spec.Replicas, 2)
		got, err = scales.Scales(ns).Patch(ctx, resource.WithVersion("v1"), "d", types.MergePatchType, []byte(`{"spec":{"replicas":0}}`), metav1.PatchOptions{})
		must(t, err)
		want(t, "replicas after patch", got.Spec.Replicas, 0)
	}
	typed, err := clients.AppsV1().Deployments(ns).UpdateScale(ctx, "d", &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{Name: "d", Namespace: ns}, Spec: autoscalingv1.ScaleSpec{Replicas: 1}}, metav1.UpdateOptions{})
	must(t, err)
	want(t, "replicas by the typed client", typed.Spec.Replicas, 1)
	applied, err := clients.AppsV1().Deployments(ns).ApplyScale(ctx, "d", autoscalingapply.Scale().WithSpec(
		autoscalingapply.ScaleSpec().WithReplicas(3)), metav1.ApplyOptions{FieldManager: "walker", Force: true})
	must(t, err)
	want(t, "replicas by apply", applied.Spec.Replicas, 3)
	deployment, err := clients.AppsV1().Deployments(ns).Get(ctx, "d", metav1.GetOptions{})
	must(t, err)
	owned := slices.IndexFunc(deployment.ManagedFields, func(entry metav1.ManagedFieldsEntry) bool {
		return entry.Manager == "walker" && entry.Operation == metav1.ManagedFieldsOperationApply && entry.Subresource == "scale"
	})
	if owned < 0 || !strings.Contains(string(deployment.ManagedFields[owned].FieldsV1.Raw), "f:replicas") {
		t.Errorf("nobody owns the replicas by apply: %v", deployment.ManagedFields)
	}
}
