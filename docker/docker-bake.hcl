# All images for all their platforms: docker buildx bake -f docker/docker-bake.hcl [IMAGE…]
# With --set '*.platform=linux/amd64' or one image's name for a part of it; --push sends them to IMAGE_REGISTRY.

variable "IMAGE_REGISTRY" { default = "localhost/inference-service" }
variable "IMAGE_TAG" { default = "0.1.0" }
variable "TRIXIE_IMAGE" { default = "debian:trixie-20260824-slim" }
variable "BOOKWORM_IMAGE" { default = "debian:bookworm-20260824-slim" }
variable "ROS_IMAGE" { default = "ros:jazzy-ros-base" }
variable "CANN_IMAGE" { default = "no-cann" }
variable "BUILD_CA" { default = "/dev/null" }
variable "VERSION_COMMIT" { default = "unknown" }

group "default" {
  targets = ["device", "device-ros", "sim", "engine-cuda", "engine-ascend", "engine-rknn"]
}

target "common" {
  dockerfile = "docker/Dockerfile"
  args = {
    TRIXIE_IMAGE   = TRIXIE_IMAGE
    BOOKWORM_IMAGE = BOOKWORM_IMAGE
    VERSION_COMMIT = VERSION_COMMIT
  }
  secret     = ["id=ca,src=${BUILD_CA}"]
}

target "device" {
  inherits  = ["common"]
  target    = "device"
  tags      = ["${IMAGE_REGISTRY}/device:${IMAGE_TAG}"]
  platforms = ["linux/amd64", "linux/arm64"]
}

target "device-ros" {
  inherits  = ["common"]
  target    = "device-ros"
  args      = { ROS_IMAGE = ROS_IMAGE }
  tags      = ["${IMAGE_REGISTRY}/device-ros:${IMAGE_TAG}"]
  platforms = ["linux/amd64", "linux/arm64"]
}

target "sim" {
  inherits  = ["common"]
  target    = "sim"
  tags      = ["${IMAGE_REGISTRY}/sim:${IMAGE_TAG}"]
  platforms = ["linux/amd64", "linux/arm64"]
}

target "engine-cuda" {
  inherits  = ["common"]
  target    = "engine-cuda"
  tags      = ["${IMAGE_REGISTRY}/engine-cuda:${IMAGE_TAG}"]
  platforms = ["linux/amd64"]
}

target "engine-ascend" {
  inherits  = ["common"]
  target    = "engine-ascend"
  args      = { CANN_IMAGE = CANN_IMAGE }
  tags      = ["${IMAGE_REGISTRY}/engine-ascend:${IMAGE_TAG}"]
  platforms = ["linux/amd64", "linux/arm64"]
}

target "engine-rknn" {
  inherits  = ["common"]
  target    = "engine-rknn"
  tags      = ["${IMAGE_REGISTRY}/engine-rknn:${IMAGE_TAG}"]
  platforms = ["linux/arm64"]
}
