package core

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	toolswatch "k8s.io/client-go/tools/watch"
	"k8s.io/client-go/transport"
	"k8s.io/utils/ptr"
)

var configMaps = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}

// requests notes the query of every watch that a client starts.
type requests struct {
	next    http.RoundTripper
	mutex   *sync.Mutex
	watches *[]string
}

func (noting requests) RoundTrip(request *http.Request) (*http.Response, error) {
	if query := request.URL.RawQuery; strings.Contains(query, "watch=") {
		noting.mutex.Lock()
		*noting.watches = append(*noting.watches, query)
		noting.mutex.Unlock()
	}
	return noting.next.RoundTrip(request)
}

// TestInformer fills a cache by a streaming list, hears of every change, and hears again at a resync.
func TestInformer(t *testing.T) {
	for short, contentType := range map[string]string{"json": asJSON, "protobuf": asProtobuf} {
		t.Run(short, func(t *testing.T) {
			ns, ctx := namespace(t), t.Context()
			config := configOf(t, contentType)
			var mutex sync.Mutex
			var watches []string
			config.Wrap(transport.WrapperFunc(func(next http.RoundTripper) http.RoundTripper {
				return requests{next, &mutex, &watches}
			}))
			clients := clientsFor(t, config)
			maps := clients.CoreV1().ConfigMaps(ns)
			_, err := maps.Create(ctx, configMap("before"), metav1.CreateOptions{})
			must(t, err)

			factory := informers.NewSharedInformerFactoryWithOptions(clients, time.Second, informers.WithNamespace(ns))
			informer := factory.Core().V1().ConfigMaps()
			heard := make(chan string, 1000)
			handler, err := informer.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
				AddFunc: func(object any) { heard <- "add " + object.(*corev1.ConfigMap).Name },
				UpdateFunc: func(old, new any) {
					if old.(*corev1.ConfigMap).ResourceVersion == new.(*corev1.ConfigMap).ResourceVersion {
						heard <- "resync " + new.(*corev1.ConfigMap).Name
					} else {
						heard <- "update " + new.(*corev1.ConfigMap).Name
					}
				},
				DeleteFunc: func(object any) { heard <- "delete " + object.(*corev1.ConfigMap).Name },
			})
			must(t, err)
			factory.StartWithContext(ctx)
			if !cache.WaitForCacheSync(ctx.Done(), handler.HasSynced) {
				t.Fatal("the cache does not fill")
			}
			hear(t, heard, "add before")
			mutex.Lock()
			if len(watches) == 0 || !strings.Contains(watches[0], "sendInitialEvents=true") {
				t.Fatalf("not a streaming list: %v", watches)
			}
			mutex.Unlock()
			made, err := maps.Create(ctx, configMap("during"), metav1.CreateOptions{})
			must(t, err)
			hear(t, heard, "add during")
			made.Data = map[string]string{"changed": "yes"}
			_, err = maps.Update(ctx, made, metav1.UpdateOptions{})
			must(t, err)
			hear(t, heard, "update during")
			must(t, maps.Delete(ctx, "during", metav1.DeleteOptions{}))
			hear(t, heard, "delete during")
			hear(t, heard, "resync before")
			cached, err := informer.Lister().ConfigMaps(ns).Get("before")
			must(t, err)
			want(t, "cached", cached.Name, "before")
		})
	}
}

func configMap(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"a": "1"}}
}

// hear waits for one event, whatever comes before it.
func hear(t *testing.T, heard <-chan string, wanted string) {
	t.Helper()
	var others []string
	for {
		select {
		case event := <-heard:
			if event == wanted {
				return
			}
			others = append(others, event)
		case <-time.After(patience):
			t.Fatalf("%s is not heard of; heard: %v", wanted, others)
		}
	}
}

// TestOtherInformers fills caches of metadata alone, and of untyped objects.
func TestOtherInformers(t *testing.T) {
	ns, ctx := namespace(t), t.Context()
	maps := clients(t).CoreV1().ConfigMaps(ns)
	made := configMap("seen")
	made.Labels = map[string]string{"see": "me"}
	_, err := maps.Create(ctx, made, metav1.CreateOptions{})
	must(t, err)

	byMetadata, err := metadata.NewForConfig(config(t))
	must(t, err)
	few := metadatainformer.NewFilteredSharedInformerFactory(byMetadata, 0, ns, func(options *metav1.ListOptions) {
		options.LabelSelector = "see=me"
	})
	metadataInformer := few.ForResource(configMaps)
	metadataInformer.Informer()
	few.Start(ctx.Done())
	few.WaitForCacheSync(ctx.Done())
	objects := metadataInformer.Informer().GetStore().List()
	want(t, "objects by metadata", len(objects), 1)
	partial := objects[0].(*metav1.PartialObjectMetadata)
	want(t, "name", partial.Name, "seen")

	untyped, err := dynamic.NewForConfig(config(t))
	must(t, err)
	all := dynamicinformer.NewFilteredDynamicSharedInformerFactory(untyped, 0, ns, nil)
	dynamicInformer := all.ForResource(configMaps)
	dynamicInformer.Informer()
	all.Start(ctx.Done())
	all.WaitForCacheSync(ctx.Done())
	found, err := dynamicInformer.Lister().ByNamespace(ns).Get("seen")
	must(t, err)
	data, _, err := unstructured.NestedString(found.(*unstructured.Unstructured).Object, "data", "a")
	must(t, err)
	want(t, "data", data, "1")
}

// TestWatch resumes where it left off, ends when told, and is told when it asks for what is gone.
func TestWatch(t *testing.T) {
	ns, ctx := namespace(t), t.Context()
	maps := clients(t).CoreV1().ConfigMaps(ns)
	first, err := maps.Create(ctx, configMap("one"), metav1.CreateOptions{})
	must(t, err)
	for _, name := range []string{"two", "three"} {
		_, err := maps.Create(ctx, configMap(name), metav1.CreateOptions{})
		must(t, err)
	}
	events, err := maps.Watch(ctx, metav1.ListOptions{
		ResourceVersion: first.ResourceVersion, FieldSelector: "metadata.name!=kube-root-ca.crt"})
	must(t, err)
	for _, name := range []string{"two", "three"} {
		event := <-events.ResultChan()
		want(t, "event", event.Type, watch.Added)
		want(t, "name", event.Object.(*corev1.ConfigMap).Name, name)
	}
	events.Stop()

	list, err := maps.List(ctx, metav1.ListOptions{})
	must(t, err)
	timeout := int64(1)
	short, err := maps.Watch(ctx, metav1.ListOptions{TimeoutSeconds: &timeout, ResourceVersion: list.ResourceVersion})
	must(t, err)
	if event, open := <-short.ResultChan(); open {
		t.Fatalf("a watch that times out says nothing, not %v", event)
	}

	_, err = maps.Watch(ctx, metav1.ListOptions{ResourceVersion: "1"})
	if err != nil && !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
		t.Fatalf("a watch from the distant past: %v", err)
	}
	future := &metav1.ListOptions{ResourceVersion: "999999999", ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan}
	err = clients(t).CoreV1().RESTClient().Get().Namespace(ns).Resource("configmaps").
		VersionedParams(future, metav1.ParameterCodec).MaxRetries(0).Do(ctx).Error()
	refused(t, err, apierrors.IsTimeout, "Too large resource version")
}

// TestUntil waits for a condition with the helper that command line tools use.
func TestUntil(t *testing.T) {
	ns := namespace(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	clients := clients(t)
	_, err := clients.CoreV1().Pods(ns).Create(ctx, sleeper("awaited"), metav1.CreateOptions{})
	must(t, err)
	selected := cache.NewFilteredListWatchFromClient(clients.CoreV1().RESTClient(), "pods", ns, func(options *metav1.ListOptions) {
		options.FieldSelector = fields.OneTermEqualSelector("metadata.name", "awaited").String()
	})
	last, err := toolswatch.UntilWithSync(ctx, selected, &corev1.Pod{}, nil, func(event watch.Event) (bool, error) {
		return event.Object.(*corev1.Pod).Status.Phase == corev1.PodRunning, nil
	})
	must(t, err)
	want(t, "name", last.Object.(*corev1.Pod).Name, "awaited")
}

// TestLeaderElection lets two candidates stand: one leads, and when it steps down the other does.
func TestLeaderElection(t *testing.T) {
	ns := namespace(t)
	leads := make(chan string, 10)
	lost := make(chan string, 10)
	stand := func(name string) context.CancelFunc {
		ctx, cancel := context.WithCancel(t.Context())
		lock, err := resourcelock.NewFromKubeconfig(resourcelock.LeasesResourceLock, ns, "election",
			resourcelock.ResourceLockConfig{Identity: name}, config(t), 10*time.Second)
		must(t, err)
		go leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
			Lock: lock, ReleaseOnCancel: true, Name: name,
			LeaseDuration: 4 * time.Second, RenewDeadline: 3 * time.Second, RetryPeriod: 100 * time.Millisecond,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(context.Context) { leads <- name },
				OnStoppedLeading: func() { lost <- name },
			},
		})
		return cancel
	}
	stop := stand("first")
	hear(t, leads, "first")
	defer stand("second")()
	stop()
	hear(t, lost, "first")
	hear(t, leads, "second")
	lease, err := clients(t).CoordinationV1().Leases(ns).Get(t.Context(), "election", metav1.GetOptions{})
	must(t, err)
	want(t, "holder", ptr.Deref(lease.Spec.HolderIdentity, ""), "second")
	want(t, "transitions", ptr.Deref(lease.Spec.LeaseTransitions, 0), 1)
}

func clientsFor(t testing.TB, config *rest.Config) *kubernetes.Clientset {
	t.Helper()
	clients, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(fmt.Errorf("clients: %w", err))
	}
	return clients
}
