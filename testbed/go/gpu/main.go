// A device plug-in that advertises devices which do nothing, as a GPU's driver would advertise GPUs.
//
// Kubernetes counts and assigns them as it does real ones: what is tested is the way of a GPU
// through scheduler and kubelet, not the GPU. A container sees which devices it was given in the
// environment variable NVIDIA_VISIBLE_DEVICES.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

type plugin struct {
	api.UnimplementedDevicePluginServer
	devices []*api.Device
}

func (p *plugin) GetDevicePluginOptions(context.Context, *api.Empty) (*api.DevicePluginOptions, error) {
	return &api.DevicePluginOptions{}, nil
}

func (p *plugin) ListAndWatch(_ *api.Empty, stream api.DevicePlugin_ListAndWatchServer) error {
	if err := stream.Send(&api.ListAndWatchResponse{Devices: p.devices}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

func (p *plugin) Allocate(_ context.Context, request *api.AllocateRequest) (*api.AllocateResponse, error) {
	response := &api.AllocateResponse{}
	for _, container := range request.ContainerRequests {
		response.ContainerResponses = append(response.ContainerResponses, &api.ContainerAllocateResponse{
			Envs: map[string]string{"NVIDIA_VISIBLE_DEVICES": strings.Join(container.DevicesIds, ",")},
		})
	}
	return response, nil
}

func main() {
	folder := flag.String("folder", "/var/lib/kubelet/device-plugins", "the kubelet's folder of device plug-ins")
	resource := flag.String("resource", "nvidia.com/gpu", "the name of what is advertised")
	count := flag.Int("count", 1, "how many are advertised")
	after := flag.Duration("after", 0, "how long to wait before advertising")
	flag.Parse()
	time.Sleep(*after)

	p := &plugin{}
	for i := range *count {
		p.devices = append(p.devices, &api.Device{ID: fmt.Sprintf("gpu-%d", i), Health: api.Healthy})
	}
	name := strings.ReplaceAll(*resource, "/", "-") + ".sock"
	socket := filepath.Join(*folder, name)
	_ = os.Remove(socket)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		log.Fatalf("listen on %s: %v", socket, err)
	}
	server := grpc.NewServer()
	api.RegisterDevicePluginServer(server, p)
	go func() {
		if err := register(*folder, name, *resource); err != nil {
			log.Fatalf("register %s: %v", *resource, err)
		}
		log.Printf("advertising %d of %s", *count, *resource)
	}()
	log.Fatal(server.Serve(listener))
}

// register tells the kubelet of the plug-in; it tries again for a minute, because a machine's
// processes start together.
func register(folder, name, resource string) error {
	connection, err := grpc.NewClient("unix://"+filepath.Join(folder, "kubelet.sock"),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	for try := 0; ; try++ {
		_, err = api.NewRegistrationClient(connection).Register(context.Background(), &api.RegisterRequest{
			Version: api.Version, Endpoint: name, ResourceName: resource, Options: &api.DevicePluginOptions{},
		})
		if err == nil || try == 600 {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}
