# compare: no, buildah keeps the CMD of the stage below; Docker's reference has it reset
FROM box AS one
CMD ["x"]
FROM one
ENTRYPOINT ["/bin/true"]
