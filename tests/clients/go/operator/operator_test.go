package operator

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

const patience = 60 * time.Second

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, seen func(context.Context) (bool, error)) {
	t.Helper()
	if err := wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, patience, true, seen); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func definition() *apiextensionsv1.CustomResourceDefinition {
	object := func(properties map[string]apiextensionsv1.JSONSchemaProps, required ...string) apiextensionsv1.JSONSchemaProps {
		return apiextensionsv1.JSONSchemaProps{Type: "object", Properties: properties, Required: required}
	}
	text := apiextensionsv1.JSONSchemaProps{Type: "string"}
	number := apiextensionsv1.JSONSchemaProps{Type: "integer", Format: "int32", Minimum: ptr.To(0.0)}
	condition := object(map[string]apiextensionsv1.JSONSchemaProps{
		"type": text, "status": text, "reason": text, "message": text,
		"lastTransitionTime": {Type: "string", Format: "date-time"}, "observedGeneration": {Type: "integer", Format: "int64"},
	}, "type", "status", "reason", "message", "lastTransitionTime")
	schema := object(map[string]apiextensionsv1.JSONSchemaProps{
		"spec": object(map[string]apiextensionsv1.JSONSchemaProps{"image": text, "replicas": number}, "image", "replicas"),
		"status": object(map[string]apiextensionsv1.JSONSchemaProps{"ready": number, "conditions": {
			Type: "array", XListType: ptr.To("map"), XListMapKeys: []string{"type"},
			Items: &apiextensionsv1.JSONSchemaPropsOrArray{Schema: &condition},
		}}),
	})
	return &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "sites." + GroupVersion.Group},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: GroupVersion.Group, Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "sites", Kind: "Site"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: GroupVersion.Version, Served: true, Storage: true,
				Schema:       &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &schema},
				Subresources: &apiextensionsv1.CustomResourceSubresources{Status: &apiextensionsv1.CustomResourceSubresourceStatus{}},
			}},
		},
	}
}

// TestOperator runs the operator in a manager with leader election, and uses what it offers.
func TestOperator(t *testing.T) {
	ctrl.SetLogger(logr.Discard())
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	must(t, err)
	config.QPS, config.Burst = 1000, 1000
	_, err = envtest.InstallCRDs(config, envtest.CRDInstallOptions{CRDs: []*apiextensionsv1.CustomResourceDefinition{definition()}})
	must(t, err)

	scheme := runtime.NewScheme()
	must(t, clientgoscheme.AddToScheme(scheme))
	must(t, AddToScheme(scheme))
	manager, err := ctrl.NewManager(config, ctrl.Options{
		Scheme: scheme, LeaderElection: true, LeaderElectionID: "sites", LeaderElectionNamespace: "default",
		Metrics: server.Options{BindAddress: "0"}, HealthProbeBindAddress: "127.0.0.1:0",
	})
	must(t, err)
	must(t, manager.AddReadyzCheck("ping", healthz.Ping))
	must(t, (&Reconciler{manager.GetClient()}).SetupWithManager(manager))
	must(t, manager.GetFieldIndexer().IndexField(t.Context(), &appsv1.Deployment{}, "owner", func(object client.Object) []string {
		if owner := metav1.GetControllerOf(object); owner != nil {
			return []string{owner.Kind + "/" + owner.Name}
		}
		return nil
	}))
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- manager.Start(ctx) }()
	select {
	case <-manager.Elected():
	case err := <-ended:
		t.Fatal(err)
	}
	aSiteComesAndGoes(t, manager.GetClient(), manager.GetAPIReader())
	stop()
	must(t, <-ended)
}

func aSiteComesAndGoes(t *testing.T, cached client.Client, live client.Reader) {
	ctx := t.Context()
	site := &Site{ObjectMeta: metav1.ObjectMeta{Name: "home", Namespace: "default"}, Spec: SiteSpec{Image: "localhost:5000/hello:v1", Replicas: 1}}
	must(t, cached.Create(ctx, site))
	key := client.ObjectKeyFromObject(site)
	ready := func(ctx context.Context) (bool, error) {
		if err := live.Get(ctx, key, site); err != nil {
			return false, err
		}
		condition := meta.FindStatusCondition(site.Status.Conditions, "Ready")
		return condition != nil && condition.Status == metav1.ConditionTrue && condition.ObservedGeneration == site.Generation &&
			site.Status.Ready == site.Spec.Replicas, nil
	}
	eventually(t, "the Site is ready", ready)

	var owned appsv1.DeploymentList
	must(t, cached.List(ctx, &owned, client.InNamespace("default"), client.MatchingFieldsSelector{Selector: fields.OneTermEqualSelector("owner", "Site/home")}))
	if len(owned.Items) != 1 || !metav1.IsControlledBy(&owned.Items[0], site) {
		t.Fatalf("owned: %v", owned.Items)
	}
	must(t, cached.Delete(ctx, &owned.Items[0]))
	old := owned.Items[0].UID
	eventually(t, "the Deployment is made anew", func(ctx context.Context) (bool, error) {
		var deployment appsv1.Deployment
		err := live.Get(ctx, key, &deployment)
		return err == nil && deployment.UID != old, client.IgnoreNotFound(err)
	})
	patch := client.MergeFrom(site.DeepCopyObject().(*Site))
	site.Spec.Replicas = 2
	must(t, cached.Patch(ctx, site, patch))
	eventually(t, "the Site has grown", ready)

	site.Spec.Replicas = -1
	if err := cached.Update(ctx, site); !apierrors.IsInvalid(err) {
		t.Fatalf("got %v, want a refusal", err)
	}
	must(t, cached.Delete(ctx, site, client.PropagationPolicy(metav1.DeletePropagationForeground)))
	eventually(t, "the Site is gone with what it owned", func(ctx context.Context) (bool, error) {
		var deployment appsv1.Deployment
		err := live.Get(ctx, key, site)
		if err == nil || !apierrors.IsNotFound(err) {
			return false, err
		}
		err = live.Get(ctx, key, &deployment)
		return apierrors.IsNotFound(err), client.IgnoreNotFound(err)
	})
	var word corev1.ConfigMap
	must(t, live.Get(ctx, client.ObjectKey{Namespace: "default", Name: "farewell-home"}, &word))
}
