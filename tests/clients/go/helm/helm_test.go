// Package helm runs Helm, as its users do, on a chart with definitions, hooks and tests.
package helm

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// helm runs one command in the namespace of the tests and returns what it printed.
func helm(t *testing.T, line string, more ...string) (string, error) {
	t.Helper()
	command := exec.CommandContext(t.Context(), os.Getenv("HELM"), append(strings.Fields(line), more...)...)
	command.Env = append(os.Environ(), "HELM_NAMESPACE=shops")
	output, err := command.CombinedOutput()
	return string(output), err
}

func works(t *testing.T, line string, says ...string) string {
	t.Helper()
	output, err := helm(t, line)
	if err != nil {
		t.Fatalf("helm %s: %v\n%s", line, err, output)
	}
	for _, wanted := range says {
		if !strings.Contains(output, wanted) {
			t.Fatalf("helm %s does not say %q:\n%s", line, wanted, output)
		}
	}
	return output
}

func fails(t *testing.T, line string, says string) {
	t.Helper()
	output, err := helm(t, line)
	if err == nil || !strings.Contains(output, says) {
		t.Fatalf("helm %s: %v\ndoes not say %q:\n%s", line, err, says, output)
	}
}

func TestHelm(t *testing.T) {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		t.Fatal(err)
	}
	clients, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	greeting := func(ctx context.Context) string {
		found, err := clients.CoreV1().ConfigMaps("shops").Get(ctx, "corner", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if found.Data["ingress"] != "yes" || !strings.HasPrefix(found.Data["version"], "v1.36.") {
			t.Fatalf("what the chart learnt of the cluster: %v", found.Data)
		}
		return found.Data["greeting"]
	}

	works(t, "lint testdata/shop", "0 chart(s) failed")
	works(t, "install corner testdata/shop --dry-run=client", "STATUS: pending-install", "kind: Deployment")
	works(t, "install corner testdata/shop --create-namespace --wait --timeout 60s", "STATUS: deployed", "REVISION: 1", "The shop corner says hello.")
	job, err := clients.BatchV1().Jobs("shops").Get(t.Context(), "corner-post-install", metav1.GetOptions{})
	if err != nil || job.Status.Succeeded != 1 {
		t.Fatalf("the hook after the installation: %v %v", job, err)
	}
	if greeting(t.Context()) != "hello" {
		t.Fatal("another greeting")
	}
	fails(t, "install corner testdata/shop", "cannot reuse a name that is still in use")
	works(t, "test corner --logs", "Phase:          Succeeded", "hello v1 from corner-")
	works(t, "upgrade corner testdata/shop --wait --timeout 60s --set greeting=welcome,replicas=2", "REVISION: 2", "says welcome.")
	if greeting(t.Context()) != "welcome" {
		t.Fatal("the upgrade changed nothing")
	}
	works(t, "get manifest corner", "namespace: ") // looked up in the cluster, where it was missing before
	fails(t, "upgrade corner testdata/shop --set broken=true", "spec.price in body should be greater than or equal to 1")
	var history []struct {
		Revision int    `json:"revision"`
		Status   string `json:"status"`
	}
	if err := json.Unmarshal([]byte(works(t, "history corner -o json")), &history); err != nil {
		t.Fatal(err)
	}
	if len(history) != 3 || history[1].Status != "deployed" || history[2].Status != "failed" {
		t.Fatalf("history: %v", history)
	}
	works(t, "rollback corner 1 --wait --timeout 60s", "Rollback was a success")
	if greeting(t.Context()) != "hello" {
		t.Fatal("not rolled back")
	}
	works(t, "status corner", "STATUS: deployed", "REVISION: 4")
	works(t, "list", "corner", "shops", "deployed", "shop-0.1.0")
	works(t, "get values corner", "null")
	works(t, "get manifest corner", "greeting: \"hello\"")
	works(t, "get hooks corner", "helm.sh/hook: pre-install")
	works(t, "upgrade --install second testdata/shop --set service.port=81", "REVISION: 1")
	works(t, "uninstall second", "release \"second\" uninstalled")
	works(t, "uninstall corner --wait --timeout 60s", "release \"corner\" uninstalled")
	deployments, err := clients.AppsV1().Deployments("shops").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(deployments.Items) != 0 {
		t.Fatalf("left behind: %v %v", deployments.Items, err)
	}
	if output := works(t, "list -q"); output != "" {
		t.Fatalf("still listed: %s", output)
	}
	works(t, "show crds testdata/shop", "offers.shop.example.com")
}
