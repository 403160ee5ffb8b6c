// What operators do, through kafkajs' admin. Arguments: BOOTSTRAP TOPIC.
'use strict';
const { Kafka, logLevel, ConfigResourceTypes } = require(`${process.env.NODE_CLIENTS}/kafkajs`);

const check = (ok, message) => {
  if (!ok) throw new Error(message);
};

const refused = async (promise, type) => {
  try {
    await promise;
  } catch (error) {
    const found = error.type || (error.errors && error.errors[0].type);
    return check(found === type, `expected ${type}, got ${found}: ${error}`);
  }
  throw new Error(`not refused with ${type}`);
};

const main = async (bootstrap, topic) => {
  const admin = new Kafka({ clientId: 'operations', brokers: [bootstrap], logLevel: logLevel.NOTHING, retry: { retries: 5 } }).admin();
  await admin.connect();
  check(await admin.createTopics({ topics: [{ topic, numPartitions: 2, replicationFactor: 1 }], waitForLeaders: true }), 'not created');
  check((await admin.listTopics()).includes(topic), 'the topic is not listed');
  const cluster = await admin.describeCluster();
  check(cluster.brokers.length === 1 && cluster.clusterId && cluster.controller === cluster.brokers[0].nodeId, JSON.stringify(cluster));

  const configs = async (type, name, configNames) => {
    const { resources } = await admin.describeConfigs({ includeSynonyms: true, resources: [{ type, name, configNames }] });
    return Object.fromEntries(resources[0].configEntries.map((entry) => [entry.configName, entry]));
  };
  const resource = (configEntries) => ({ validateOnly: false, resources: [{ type: ConfigResourceTypes.TOPIC, name: topic, configEntries }] });
  await admin.alterConfigs(resource([{ name: 'retention.ms', value: '12345' }]));
  let found = await configs(ConfigResourceTypes.TOPIC, topic, ['retention.ms']);
  check(found['retention.ms'].configValue === '12345' && !found['retention.ms'].isDefault, JSON.stringify(found));
  // AlterConfigs replaces all that was set.
  await admin.alterConfigs(resource([{ name: 'segment.bytes', value: '2097152' }]));
  found = await configs(ConfigResourceTypes.TOPIC, topic, ['retention.ms', 'segment.bytes']);
  check(found['retention.ms'].configValue === '604800000' && found['segment.bytes'].configValue === '2097152', JSON.stringify(found));
  await refused(admin.alterConfigs(resource([{ name: 'segment.bites', value: '1' }])), 'INVALID_CONFIG');
  found = await configs(ConfigResourceTypes.BROKER, String(cluster.brokers[0].nodeId), undefined);
  check(found['log.dirs'].configValue && found['num.partitions'].readOnly, 'the configs of the broker');

  await admin.createPartitions({ topicPartitions: [{ topic, count: 3 }] });
  const { topics } = await admin.fetchTopicMetadata({ topics: [topic] });
  check(topics[0].partitions.length === 3, JSON.stringify(topics));
  check((await admin.listPartitionReassignments({})).topics.length === 0, 'there are reassignments');

  const groupId = `${topic}-group`;
  await admin.setOffsets({ groupId, topic, partitions: [{ partition: 0, offset: '0' }] });
  check((await admin.listGroups()).groups.some((group) => group.groupId === groupId), 'the group is not listed');
  const { groups } = await admin.describeGroups([groupId]);
  check(groups[0].state === 'Empty', JSON.stringify(groups));
  const [committed] = await admin.fetchOffsets({ groupId, topics: [topic] });
  check(committed.partitions.find((partition) => partition.partition === 0).offset === '0', JSON.stringify(committed));
  await admin.resetOffsets({ groupId, topic, earliest: true });
  await admin.deleteGroups([groupId]);
  check(!(await admin.listGroups()).groups.some((group) => group.groupId === groupId), 'the group is still listed');
  await admin.deleteTopics({ topics: [topic] });
  check(!(await admin.listTopics()).includes(topic), 'the topic is still listed');
  await admin.disconnect();
};

main(...process.argv.slice(2)).catch((error) => {
  console.error(error.stack || String(error));
  process.exit(1);
});
