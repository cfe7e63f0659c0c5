// Package core drives the server with client-go, as controllers and tools written in Go do.
package core

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// image is what the tests run in Pods: busybox and a small web server.
const image = "localhost:5000/hello:v1"

// patience is how long anything may take that a test waits for.
const patience = 60 * time.Second

const (
	asJSON     = runtime.ContentTypeJSON
	asProtobuf = runtime.ContentTypeProtobuf
)

// config reads $KUBECONFIG anew, so that a test can change its copy.
func config(t testing.TB) *rest.Config {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	must(t, err)
	config.QPS, config.Burst = 1000, 1000
	return config
}

func configOf(t testing.TB, contentType string) *rest.Config {
	config := config(t)
	config.ContentType = contentType
	if contentType == asProtobuf {
		config.AcceptContentTypes = asProtobuf + "," + asJSON
	}
	return config
}

func clients(t testing.TB) *kubernetes.Clientset {
	t.Helper()
	clients, err := kubernetes.NewForConfig(configOf(t, asProtobuf))
	must(t, err)
	return clients
}

// namespace makes a namespace that lives as long as the test, and waits until Pods can be made in it.
func namespace(t testing.TB) string {
	t.Helper()
	clients := clients(t)
	made, err := clients.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "go-"},
	}, metav1.CreateOptions{})
	must(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := clients.CoreV1().Namespaces().Delete(ctx, made.Name, metav1.DeleteOptions{}); err != nil {
			t.Errorf("delete namespace %s: %v", made.Name, err)
		}
	})
	eventually(t, "the default service account", func(ctx context.Context) (bool, error) {
		list, err := clients.CoreV1().ServiceAccounts(made.Name).List(ctx, metav1.ListOptions{})
		return err == nil && len(list.Items) > 0, err
	})
	return made.Name
}

// eventually asks until the answer is yes, an error, or time is up.
func eventually(t testing.TB, what string, seen func(context.Context) (bool, error)) {
	t.Helper()
	err := wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, patience, true, seen)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func want[T comparable](t testing.TB, what string, got, wanted T) {
	t.Helper()
	if got != wanted {
		t.Fatalf("%s: got %v, want %v", what, got, wanted)
	}
}

// refused checks that an error is of a kind, and says what it should say.
func refused(t testing.TB, err error, is func(error) bool, says string) {
	t.Helper()
	if err == nil || !is(err) || !strings.Contains(err.Error(), says) {
		t.Fatalf("got %v (%T), want an error that says %q", err, err, says)
	}
}

// sleeper is a Pod that waits for its end, and ends at once when told.
func sleeper(name string) *corev1.Pod {
	none := int64(0)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &none,
			Containers: []corev1.Container{{
				Name: "main", Image: image, Command: []string{"/hello", "--port=8080"},
				ReadinessProbe: &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{
					Exec: &corev1.ExecAction{Command: []string{"true"}},
				}},
			}},
		},
	}
}

// running makes a Pod and waits until it is ready.
func running(t testing.TB, clients *kubernetes.Clientset, namespace string, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	made, err := clients.CoreV1().Pods(namespace).Create(t.Context(), pod, metav1.CreateOptions{})
	must(t, err)
	eventually(t, fmt.Sprintf("Pod %s is ready", made.Name), func(ctx context.Context) (bool, error) {
		made, err = clients.CoreV1().Pods(namespace).Get(ctx, made.Name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		for _, condition := range made.Status.Conditions {
			if condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue {
				return true, nil
			}
		}
		return false, nil
	})
	return made
}
